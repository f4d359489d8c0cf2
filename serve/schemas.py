"""What goes over the wire and what an operator may set: the types behind the OpenAPI document and serve/config.yaml."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

from yt8m_ray.registry import Config
from yt8m_ray.schema import FRAME_FEATURES, VIDEO_FEATURES


class ServeArgs(Config):
    """What a replica is built with; a change starts new replicas.

    Attributes:
        model: A bundle, folder or tar, or a checkpoint, here or in an object store; None takes the environment variable
            YT8M_MODEL.
        num_threads: Threads of a replica's tensor operations. Replicas with more threads than cores slow each other.
    """

    model: str | None = None
    num_threads: Annotated[int, Field(ge=1)] = 1


class Limits(Config):
    """What a running replica can change in place.

    Attributes:
        max_batch_size: Videos that go through the model at once.
        batch_wait_timeout_s: How long a batch waits for more videos.
        max_body_bytes: Largest request body.
        max_videos: Most videos a request.
        max_labels: Most labels of an answer: its videos times its classes a video.
        default_top_k: Classes a video where the request names no number.
    """

    max_batch_size: Annotated[int, Field(ge=1)] = 32
    batch_wait_timeout_s: Annotated[float, Field(ge=0, le=1)] = 0.002
    max_body_bytes: Annotated[int, Field(ge=1)] = 32 * 2**20
    max_videos: Annotated[int, Field(ge=1)] = 64
    max_labels: Annotated[int, Field(ge=1)] = 100_000
    default_top_k: Annotated[int, Field(ge=1)] = 20


class _Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


Byte = Annotated[int, Field(ge=0, le=255)]


def _form(value: Any) -> str:
    if isinstance(value, list):
        return "nested" if value and isinstance(value[0], list) else "flat"
    return "base64"


# Without fail_fast a body of a million wrong values would make a million errors, of which a client is told the first.
ByteList = Annotated[list[Byte], Field(fail_fast=True)]
Frames = Annotated[
    Annotated[str, pydantic.Tag("base64"), Field(title="base64 of the bytes")]
    | Annotated[ByteList, pydantic.Tag("flat"), Field(title="all bytes in one list")]
    | Annotated[list[ByteList], pydantic.Tag("nested"), Field(title="one list a frame", fail_fast=True)],
    pydantic.Discriminator(_form),
]
Means = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(fail_fast=True)]


def _frames(name: str) -> Any:
    size = FRAME_FEATURES[name]
    return Field(default=None, description=f"uint8, {size} values a frame, one frame a second, frame by frame")


def _means(name: str) -> Any:
    return Field(default=None, description=f"{VIDEO_FEATURES[name]} numbers: the mean over the video's frames")


class Video(_Message):
    """One video: frames (`rgb`, `audio`) for any model, or means (`mean_rgb`, `mean_audio`) for a video-level model."""

    video_id: str = Field(default="", max_length=1000, description="Returned as it is")
    rgb: Frames | None = _frames("rgb")
    audio: Frames | None = _frames("audio")
    mean_rgb: Means | None = _means("mean_rgb")
    mean_audio: Means | None = _means("mean_audio")


class PredictRequest(_Message):
    videos: list[Video] = Field(min_length=1, fail_fast=True)
    top_k: int | None = Field(default=None, ge=1, description="Classes a video, at most as many as the model has")


class Label(pydantic.BaseModel):
    class_id: int
    name: str | None = Field(description="null where the vocabulary has no name")
    score: float = Field(description="Probability, 0 to 1")


class Prediction(pydantic.BaseModel):
    video_id: str
    labels: list[Label] = Field(description="Best first; equal scores by class id")


class PredictResponse(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    model_version: str
    predictions: list[Prediction] = Field(description="One for each video, in the order of the request")


class Health(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    status: str
    model_version: str


class ErrorDetail(pydantic.BaseModel):
    code: str
    message: str
    request_id: str


class ErrorResponse(pydantic.BaseModel):
    error: ErrorDetail
