"""Request bodies -> rows, or RequestError: 400 if a body cannot be read, 422 if it does not fit the model."""

from __future__ import annotations

import binascii
import codecs
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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

M = TypeVar("M", bound=pydantic.BaseModel)

# Fields of a record, and integers of its lists, besides the frames; published records have some dozens.
_OTHER_FIELDS = 2048
# Keys and lists of a video in JSON, and such characters in its id, besides those of its features.
_OTHER_KEYS = 100

_JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+[{\[]")
# Begins the value of a map entry, and the feature lists of a SequenceExample.
_ENTRY_VALUE = b"\x12"


@dataclass(frozen=True)
class ModelInput:
    """What a valid request asks: rows that fit the model, and 1 <= top_k <= classes."""

    rows: list[VideoRow]
    top_k: int


@dataclass(frozen=True)
class PredictionInput(ModelInput):
    video_ids: list[str]


def decode_json(body: bytes, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of JSON: an object with `videos`, whose own `top_k` takes precedence, or the list of them."""
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
    """Returns the input of parsed JSON, valid or not; `where` names the list in errors."""
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
    return PredictionInput(rows, asked, [video.get(VIDEO_ID) or "" for video in videos])


def is_json(body: bytes) -> bool:
    """Returns whether a body without a content type is JSON, and no record."""
    if _JSON_START.match(body) is None:
        return False
    # No record begins with a brace or a bracket: in protobuf they open groups, which neither message has. It may begin
    # with a line feed, but then it has an entry with a value, whose first byte no JSON has.
    return body[:1] in (b"{", b"[") or _ENTRY_VALUE not in body


def json_text(body: bytes) -> bytes:
    """Returns a JSON body from its first brace or bracket on: without a byte order mark and white space."""
    return body.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")


def checked_json(body: bytes, spec: FeatureSpec, limits: Limits) -> bytes:
    """Returns the text of a JSON body that has no more in it than videos can have."""
    # Counted in its bytes, since a parser holds up all threads: a comma stands for a value, a colon for a key and so
    # on, also inside of texts.
    if body.count(b",") >= limits.max_json_values:
        hint = "send frames as base64, or a record as application/octet-stream"
        raise RequestError(422, f"body: at most {limits.max_json_values} values in JSON, found more; {hint}")
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
    """Returns the input of one record in the usual layout, in some microseconds; None leaves it to `decode_binary`."""
    row = records.read(body)
    if row is None or (row.frames.dtype.kind == "f" and not np.isfinite(row.frames).all()):
        return None
    with refusals():
        check_num_frames(len(row.frames), next(iter(spec.sizes)), spec, "body")
    return PredictionInput([row], check_top_k(top_k, 1, spec, limits), [row.video_id])


def decode_binary(body: bytes | memoryview, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of one serialized SequenceExample or Example."""
    if not body:
        raise RequestError(400, "body: expected a serialized SequenceExample or Example, found no bytes")
    # Bounds the cost before the record is parsed. A frame is two or three fields, and a mean may have one a value.
    most = 4 * len(spec.sizes) * (spec.max_frames + 1) + spec.dim + _OTHER_FIELDS
    try:
        fields = decode_record(body, max_steps=spec.max_frames + 1, max_fields=most)
    except RecordError as error:
        raise RequestError(400, f"body: not a SequenceExample or Example: {error.reason}") from None
    with refusals():
        row = checked_row(fields.context, fields.sequences, spec, "body")
    has_id = any(key in fields.context for key in ID_KEYS)
    return PredictionInput([row], check_top_k(top_k, 1, spec, limits), [row.video_id if has_id else ""])


def parse_top_k(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise RequestError(422, f"top_k: expected a whole number of at least 1, found {shorten(text)}")
    return int(text)


def parameter_top_k(parameters: Mapping[str, Any]) -> int | None:
    asked = parameters.get(TOP_K)
    if asked is not None and type(asked) is not int:
        raise RequestError(422, f"parameters.top_k: expected a whole number, found {shorten(asked)}")
    return asked


def check_top_k(asked: int | None, num_videos: int, spec: FeatureSpec, limits: Limits) -> int:
    """Returns the classes a video, or the default if `asked` is None."""
    top_k = min(limits.default_top_k, spec.num_classes) if asked is None else asked
    if not 1 <= top_k <= spec.num_classes:
        raise RequestError(422, f"top_k: expected 1 to {spec.num_classes}, found {shorten(top_k)}")
    if num_videos * top_k > limits.max_labels:
        found = f"{num_videos} videos * {top_k}"
        raise RequestError(422, f"top_k: at most {limits.max_labels} labels an answer, found {found}")
    return top_k


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raises a RequestError for a ValueError of `yt8m_ray.data.format.video_input`."""
    try:
        yield
    except ValueError as error:
        # Text that is not base64 cannot be read; other values can, and do not fit the model.
        raise RequestError(400 if isinstance(error, binascii.Error) else 422, str(error)) from None


def validate_json(model: type[M], text: bytes, *, strict: bool | None = None) -> M:
    """Returns a JSON document of a type of ours; RequestError says the first thing that is wrong with it."""
    try:
        return model.model_validate_json(text, strict=strict)
    except pydantic.ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: pydantic.ValidationError, types: BodyTypes | None = None, root: str = "") -> RequestError:
    """Returns one sentence for the first thing that is wrong; `root` is the place of the videos in the body."""
    # Without types of videos it is a document whose values errors do not repeat.
    first = error.errors(include_url=False, include_input=types is not None)[0]
    location = [root, *first["loc"]] if root else list(first["loc"])
    where, kind, context = location_text(location), first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return RequestError(400, f"body: not JSON: {context['error']}")
    if kind == "too_long" and len(location) <= 1:
        counts = f"at most {context['max_length']} a request, found {context['actual_length']}"
        return RequestError(422, f"{where[:100] or VIDEOS}: {counts}")
    if kind == "extra_forbidden" and types is not None:
        is_of_video = any(isinstance(part, int) for part in location)
        valid = types.video_keys if is_of_video else (VIDEOS, TOP_K)
        return RequestError(422, f"{where[:100]}: unknown key; valid: {', '.join(valid)}")
    if kind == "finite_number" and types is not None:
        message = f"value {location[-1]} is {shorten(first['input'])}, not a finite number"
        return RequestError(422, f"{location_text(location[:-1])}: {message}")
    found = "" if types is None or kind == "missing" else f", found {shorten(first['input'])}"
    return RequestError(422, f"{where[:100] or 'body'}: {first['msg']}{found}")


def location_text(location: Iterable[int | str]) -> str:
    """Returns a place in a document, such as `videos[0].rgb`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
