"""Request bodies -> rows: the border where everything that a client may get wrong is refused.

400 means that a body cannot be read, 422 that what it says does not fit the model. What a body may cost is bounded
before it is read: a record by its fields, JSON by its keys and values.
"""

from __future__ import annotations

import binascii
import codecs
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from serve.errors import RequestError
from serve.http.video_types import TOP_K, VIDEO_ID, VIDEOS, BodyTypes, body_types
from serve.settings import Limits
from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.format.video_input import check_num_frames, checked_row, read_video, shorten
from yt8m_ray.data.pipeline.single_record import OrdinaryRecords
from yt8m_ray.schema import ID_KEYS

_OTHER_FIELDS = 2048
"""Fields of a record, and integers of its lists, beside those of its frames: the published ones have some dozens."""

_OTHER_KEYS = 100
"""Keys and lists of a video in JSON, and colons, braces and so on in its id, beside those of its features."""

_JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+[{\[]")
_ENTRY_VALUE = b"\x12"
"""Begins the value of a map entry, and the feature lists of a SequenceExample."""


@dataclass(frozen=True)
class PredictionInput:
    """A request that can be answered: rows that fit the model, their ids as given, and 1 <= top_k <= classes."""

    video_ids: list[str]
    rows: list[VideoRow]
    top_k: int


def decode_json(body: bytes, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of an `application/json` body: an object with `videos`, or the list of them alone.

    The object's own `top_k` goes before the given one.
    """
    text = checked_json(body, spec, limits)
    types = body_types(spec, limits.max_videos)
    try:
        if text[:1] == b"[":
            return _read_videos(types.videos.validate_json(text), "", top_k, spec, limits)
        request = types.request.validate_json(text)
    except pydantic.ValidationError as error:
        raise _refusal(error, types) from None
    asked = top_k if request.get(TOP_K) is None else request[TOP_K]
    return _read_videos(request[VIDEOS], VIDEOS, asked, spec, limits)


def decode_videos(
    videos: list[Any], where: str, top_k: int | None, spec: FeatureSpec, limits: Limits
) -> PredictionInput:
    """Returns the input of videos that were read from JSON already, whatever they are; `where` names them in errors."""
    types = body_types(spec, limits.max_videos)
    try:
        checked = types.videos.validate_python(videos)
    except pydantic.ValidationError as error:
        raise _refusal(error, types, where) from None
    return _read_videos(checked, where, top_k, spec, limits)


def _read_videos(
    videos: Sequence[Mapping[str, Any]], where: str, top_k: int | None, spec: FeatureSpec, limits: Limits
) -> PredictionInput:
    given = [
        {name: value for name, value in video.items() if value is not None and name != VIDEO_ID} for video in videos
    ]
    with refusals():
        rows = [read_video(features, spec, f"{where}[{index}]") for index, features in enumerate(given)]
    asked = check_top_k(top_k, len(rows), spec, limits)
    return PredictionInput([video.get(VIDEO_ID) or "" for video in videos], rows, asked)


def is_json(body: bytes) -> bool:
    """Returns whether a body whose type nobody says is JSON; else it is a record, if it is anything."""
    if _JSON_START.match(body) is None:
        return False
    # No record begins with a brace or a bracket: in protobuf they open groups, which neither message has. It may begin
    # with a line feed, but then it has an entry with a value, whose first byte no JSON has.
    return body[:1] in (b"{", b"[") or _ENTRY_VALUE not in body


def json_text(body: bytes) -> bytes:
    """Returns a JSON body from its first brace or bracket on: without a byte order mark and white space."""
    return body.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")


def checked_json(body: bytes, spec: FeatureSpec, limits: Limits) -> bytes:
    """Returns the text of a JSON body that has no more in it than videos can have.

    Its bytes are counted: a parser holds up all threads. A comma stands for a value, a colon for a key and so on, those
    in texts too.
    """
    if body.count(b",") >= limits.max_json_values:
        raise RequestError(
            422,
            f"body: at most {limits.max_json_values} values in JSON, found more; send frames as base64, or a record as "
            "application/octet-stream",
        )
    num_keys = limits.max_videos * (2 * len(spec.sizes) + _OTHER_KEYS)
    num_lists = limits.max_videos * (len(spec.sizes) * (spec.max_frames + 2) + _OTHER_KEYS)
    bounds = (("keys", b":", num_keys), ("objects", b"{", num_keys), ("lists", b"[", num_lists))
    for what, mark, most in (*bounds, ("texts", b'"', 4 * num_keys)):
        if (found := body.count(mark)) > most:
            raise RequestError(422, f"body: at most {most} {what} in JSON, found {found}")
    return json_text(body)


def decode_ordinary(
    body: bytes | memoryview, top_k: int | None, records: OrdinaryRecords, spec: FeatureSpec, limits: Limits
) -> PredictionInput | None:
    """Returns the input of one record that is laid out as usual, in some microseconds; None leaves it to the others."""
    row = records.read(body)
    if row is None or (row.frames.dtype.kind == "f" and not np.isfinite(row.frames).all()):
        return None
    with refusals():
        check_num_frames(len(row.frames), next(iter(spec.sizes)), spec, "body")
    return PredictionInput([row.video_id], [row], check_top_k(top_k, 1, spec, limits))


def decode_binary(body: bytes | memoryview, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of one serialized SequenceExample or Example; RequestError says what is wrong with it."""
    if not body:
        raise RequestError(400, "body: expected a serialized SequenceExample or Example, found no bytes")
    # A step of a frame is two fields, or three, and a mean may be a field a value.
    most = 4 * len(spec.sizes) * (spec.max_frames + 1) + spec.dim + _OTHER_FIELDS
    try:
        fields = decode_record(body, max_steps=spec.max_frames + 1, max_fields=most)
    except RecordError as error:
        raise RequestError(400, f"body: not a SequenceExample or Example: {error.reason}") from None
    with refusals():
        row = checked_row(fields.context, fields.sequences, spec, "body")
    has_id = any(key in fields.context for key in ID_KEYS)
    return PredictionInput([row.video_id if has_id else ""], [row], check_top_k(top_k, 1, spec, limits))


def parse_top_k(text: str | None) -> int | None:
    """Returns the number in the query parameter `top_k`, None where it is not given."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise RequestError(422, f"top_k: expected a whole number of at least 1, found {shorten(text)}")
    return int(text)


def check_top_k(asked: int | None, num_videos: int, spec: FeatureSpec, limits: Limits) -> int:
    """Returns the classes a video, the default where none are asked for; RequestError if there are not so many."""
    top_k = min(limits.default_top_k, spec.num_classes) if asked is None else asked
    if not 1 <= top_k <= spec.num_classes:
        raise RequestError(422, f"top_k: expected 1 to {spec.num_classes}, found {shorten(top_k)}")
    if num_videos * top_k > limits.max_labels:
        raise RequestError(
            422, f"top_k: at most {limits.max_labels} labels an answer, found {num_videos} videos * {top_k}"
        )
    return top_k


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Makes a RequestError of what `yt8m_ray.data.format.video_input` says of a video."""
    try:
        yield
    except ValueError as error:
        # Text that is not base64 cannot be read at all; the rest can, and does not fit the model.
        raise RequestError(400 if isinstance(error, binascii.Error) else 422, str(error)) from None


def invalid_json(error: pydantic.ValidationError) -> RequestError:
    """Returns one sentence for the first thing that is wrong with JSON of a type of our own."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(400, f"body: not JSON: {first['ctx']['error']}")
    where = location_text(first["loc"])[:100] or "body"
    if first["type"] == "too_long" and len(first["loc"]) == 1:
        return _too_many(where, first["ctx"])
    return RequestError(422, f"{where}: {first['msg']}")


def _too_many(where: str, context: Mapping[str, Any]) -> RequestError:
    return RequestError(422, f"{where}: at most {context['max_length']} a request, found {context['actual_length']}")


def _refusal(error: pydantic.ValidationError, types: BodyTypes, root: str = "") -> RequestError:
    """Returns one sentence for the first thing that is wrong with videos, which are `root` of a body."""
    first = error.errors(include_url=False, include_input=False)[0]
    location = [root, *first["loc"]] if root else list(first["loc"])
    where = location_text(location)
    kind = first["type"]
    if kind == "json_invalid":
        return RequestError(400, f"body: not JSON: {first['ctx']['error']}")
    if kind == "extra_forbidden":
        is_of_video = any(isinstance(part, int) for part in location)
        valid = types.video_keys if is_of_video else (VIDEOS, TOP_K)
        return RequestError(422, f"{where[:100]}: unknown key; valid: {', '.join(valid)}")
    if kind == "too_long" and location in ([VIDEOS], [root], []):
        return _too_many(root or VIDEOS, first["ctx"])
    if kind == "missing":
        return RequestError(422, f"{where}: {first['msg']}")
    found = error.errors(include_url=False)[0]["input"]
    if kind == "finite_number":
        message = f"value {location[-1]} is {shorten(found)}, not a finite number"
        return RequestError(422, f"{location_text(location[:-1])}: {message}")
    return RequestError(422, f"{where or 'body'}: {first['msg']}, found {shorten(found)}")


def location_text(location: Iterable[int | str]) -> str:
    """Returns a place in a document, such as `videos[0].rgb`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
