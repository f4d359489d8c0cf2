"""The types of a model's JSON bodies: videos with the features that it reads, by name."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

import pydantic
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.schema import FRAME_FEATURES, MEAN_PREFIX, VIDEO_FEATURES

VIDEO_ID, VIDEOS, TOP_K = "video_id", "videos", "top_k"

_STRICT = pydantic.ConfigDict(extra="forbid", strict=True)

_BYTE = {"type": "integer", "minimum": 0, "maximum": 255}
_BYTES = {"type": "array", "items": _BYTE}
# Any, since `read_video` checks them: pydantic takes four times as long to look at each number.
Frames = Annotated[
    Any,
    pydantic.WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "title": "base64 of the bytes"},
                {**_BYTES, "title": "all bytes in one list"},
                {"type": "array", "items": _BYTES, "title": "one list a frame"},
                {"type": "null"},
            ]
        }
    ),
]
# Without fail_fast a list of a million wrong values makes a million errors, of which a client gets the first.
Means = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(fail_fast=True)]
_Unread = Annotated[Any, SkipJsonSchema()]


@dataclass(frozen=True)
class BodyTypes:
    """The JSON bodies that a model takes: an object with `videos`, or the list of videos alone."""

    # The keys of a video that are read: the id, frames, and at video level means too.
    video_keys: tuple[str, ...]
    request: pydantic.TypeAdapter[dict[str, Any]]
    videos: pydantic.TypeAdapter[list[dict[str, Any]]]


def body_types(spec: FeatureSpec, max_videos: int) -> BodyTypes:
    """Returns the types of bodies with at most `max_videos` videos."""
    return _body_types(tuple(spec.sizes.items()), max_videos)


@functools.lru_cache(maxsize=16)
def _body_types(sizes: tuple[tuple[str, int], ...], max_videos: int) -> BodyTypes:
    features = dict(_features(sizes))
    # Features of the data set that this model does not read are ignored: a video can be sent to any model.
    unread = dict.fromkeys((*FRAME_FEATURES, *VIDEO_FEATURES), NotRequired[_Unread])
    video_id = Annotated[str | None, Field(max_length=1000, description="Returned as it is; null is no id")]
    video = _typed_dict("Video", {**unread, VIDEO_ID: NotRequired[video_id], **features})
    videos = Annotated[list[video], Field(min_length=1, max_length=max_videos, fail_fast=True)]  # type: ignore[valid-type]
    top_k = Annotated[int, Field(ge=1, description="Classes a video, at most as many as the model has")]
    request = _typed_dict("PredictRequest", {VIDEOS: videos, TOP_K: NotRequired[top_k | None]})
    return BodyTypes((VIDEO_ID, *features), pydantic.TypeAdapter(request), pydantic.TypeAdapter(videos))


def _features(sizes: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, Any]]:
    for name, size in sizes:
        frames = f"uint8, {size} values a frame, one frame a second, frame by frame"
        if name.startswith(MEAN_PREFIX):
            means = f"{size} numbers: the mean over the video's frames"
            yield name, NotRequired[Annotated[Means | None, Field(description=means)]]
            frames += ", to average"
        yield name.removeprefix(MEAN_PREFIX), NotRequired[Annotated[Frames, Field(description=frames)]]


def _typed_dict(name: str, fields: dict[str, Any]) -> Any:
    # A TypedDict, since a feature's name need not be valid as an attribute of a class.
    return pydantic.with_config(_STRICT)(TypedDict(name, fields))  # type: ignore[operator]
