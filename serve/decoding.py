"""Request bodies -> rows: the border where everything that a client may get wrong is refused.

Lives here: JSON, base64 and protobuf to `VideoRow`. 400 means that the body cannot be read, 422 that what it says does
not fit the model.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic

from serve.errors import RequestError
from serve.schemas import Limits, PredictRequest, Video
from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.example import Fields, Values, decode_record
from yt8m_ray.data.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.schema import FRAME_FEATURES, ID_KEYS, LABELS_KEY, MEAN_PREFIX, VIDEO_FEATURES

TAGS = ("base64", "flat", "nested")
"""Names of the three forms of frames in JSON; they appear in pydantic's locations and mean nothing to a client."""

INLINE_BYTES = 2**20
"""A record of up to that size is decoded in the event loop: handing it to a thread takes longer."""

NO_ID = b"-"
"""Stands for the id of a video without one: optional here, required in a shard."""


@dataclass(frozen=True)
class PredictionInput:
    """A request that can be answered: rows that fit the model, their ids as given, and 1 <= top_k <= classes."""

    video_ids: list[str]
    rows: list[VideoRow]
    top_k: int


def decode_json(body: bytes, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of an `application/json` body, whose own `top_k` goes before the given one."""
    try:
        request = PredictRequest.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _refusal(error) from None
    if len(request.videos) > limits.max_videos:
        raise RequestError(422, f"videos: at most {limits.max_videos} a request, found {len(request.videos)}")
    rows = [_json_row(video, spec, f"videos[{index}]") for index, video in enumerate(request.videos)]
    asked = check_top_k(top_k if request.top_k is None else request.top_k, len(rows), spec, limits)
    return PredictionInput([video.video_id for video in request.videos], rows, asked)


def decode_binary(body: bytes | memoryview, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of one serialized SequenceExample or Example; RequestError says what is wrong with it."""
    if not body:
        raise RequestError(400, "body: expected a serialized SequenceExample or Example, found no bytes")
    try:
        fields = decode_record(body)
    except RecordError as error:
        raise RequestError(400, f"body: not a SequenceExample or Example: {error.reason}") from None
    row = check_row(fields.context, fields.sequences, spec, "body")
    has_id = any(key in fields.context for key in ID_KEYS)
    return PredictionInput([row.video_id if has_id else ""], [row], check_top_k(top_k, 1, spec, limits))


def parse_top_k(text: str | None) -> int | None:
    """Returns the number in the query parameter `top_k`, None where it is not given."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise RequestError(422, f"top_k: expected a whole number of at least 1, found {_shorten(text)}")
    return int(text)


def check_top_k(asked: int | None, num_videos: int, spec: FeatureSpec, limits: Limits) -> int:
    """Returns the classes a video, the default where none are asked for; RequestError if there are not so many."""
    top_k = min(limits.default_top_k, spec.num_classes) if asked is None else asked
    if not 1 <= top_k <= spec.num_classes:
        raise RequestError(422, f"top_k: expected 1 to {spec.num_classes}, found {top_k}")
    if num_videos * top_k > limits.max_labels:
        raise RequestError(
            422, f"top_k: at most {limits.max_labels} labels an answer, found {num_videos} videos * {top_k}"
        )
    return top_k


def _json_row(video: Video, spec: FeatureSpec, where: str) -> VideoRow:
    context: dict[str, Values] = {}
    sequences: dict[str, Any] = {}
    for name in VIDEO_FEATURES:
        values = getattr(video, name)
        if values is not None and name in spec.sizes:
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and `check_row` refuses it
                context[name] = np.array(values, np.float64).astype(np.float32)
    for name in FRAME_FEATURES:
        value = getattr(video, name)
        size = spec.sizes.get(MEAN_PREFIX + name if spec.is_video_level else name)
        if value is not None and size is not None:
            sequences[name] = _json_frames(value, size, f"{where}.{name}")
    return check_row(context, sequences, spec, where)


def _json_frames(value: str | Sequence[int | list[int]], size: int, where: str) -> npt.NDArray[np.uint8]:
    """Returns frames [T, size] given as base64 text, as one list of bytes or as one list a frame."""
    if isinstance(value, str):
        try:
            values = np.frombuffer(base64.b64decode(value, validate=True), np.uint8)
        except (binascii.Error, ValueError) as error:
            raise RequestError(400, f"{where}: not base64 (standard alphabet, no line breaks): {error}") from None
    else:
        for index, frame in enumerate(value):
            if isinstance(frame, list) and len(frame) != size:
                raise RequestError(422, f"{where}[{index}]: expected {size} values a frame, found {len(frame)}")
        values = np.array(value, np.uint8).reshape(-1)
    if len(values) % size:
        raise RequestError(422, f"{where}: expected a multiple of {size} bytes ({size} a frame), found {len(values)}")
    return values.reshape(-1, size)


def check_row(context: Mapping[str, Values], sequences: Mapping[str, Any], spec: FeatureSpec, where: str) -> VideoRow:
    """Returns the row of one video after the checks that only a service makes; offline, long clips are cut."""
    for name in spec.sizes:
        frame_name = name.removeprefix(MEAN_PREFIX)
        if name not in context and frame_name not in sequences:
            ways = f"{name}, or the frames {frame_name} to average" if spec.is_video_level else f"the frames {name}"
            raise RequestError(422, f"{where}: this model needs {ways}; found {_names(context, sequences)}")
        if name in context and spec.is_video_level:
            continue
        num_frames = len(sequences[frame_name])
        if not 1 <= num_frames <= spec.max_frames:
            raise RequestError(422, f"{where}.{frame_name}: expected 1 to {spec.max_frames} frames, found {num_frames}")
    named = dict(context)
    if not any(key in named for key in ID_KEYS):
        named[ID_KEYS[0]] = [NO_ID]
    try:
        row = to_row(Fields(named, dict(sequences)), spec, labelled=False)
    except RecordError as error:
        raise RequestError(422, f"{where}: {error.reason}") from None
    if row.frames.dtype.kind == "f" and not np.isfinite(row.frames).all():
        raise RequestError(422, f"{where}: expected finite numbers that fit float32, found NaN or infinity")
    return row


def _names(context: Mapping[str, Any], sequences: Mapping[str, Any]) -> str:
    return ", ".join(sorted({*context, *sequences} - {*ID_KEYS, LABELS_KEY})) or "no features"


def _refusal(error: pydantic.ValidationError) -> RequestError:
    """Returns one sentence for the first thing that is wrong with a JSON body."""
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    if len(location) > 3 and location[3] in TAGS:  # videos, index, rgb, "flat", index
        location = (*location[:3], *location[4:])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    if first["type"] == "json_invalid":
        return RequestError(400, f"body: not JSON: {first['ctx']['error']}")
    if first["type"] == "extra_forbidden":
        fields = Video.model_fields if where.startswith("videos") else PredictRequest.model_fields
        return RequestError(422, f"{where[:100]}: unknown key; valid: {', '.join(fields)}")
    found = "" if first["type"] == "missing" else f", found {_shorten(first['input'])}"
    return RequestError(422, f"{where or 'body'}: {first['msg']}{found}")


def _shorten(value: object) -> str:
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
