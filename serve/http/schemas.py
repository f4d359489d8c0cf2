"""The types of requests and answers in the OpenAPI document."""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic import Field


class Label(pydantic.BaseModel):
    class_id: int
    knowledge_graph_id: str | None = Field(default=None, description="Such as /m/01mw1; null where there is none")
    name: str | None = Field(default=None, description="null where there is none; names=false leaves all three out")
    vertical: str | None = Field(default=None, description="The first group of topics that the class belongs to")
    score: float = Field(description="Probability, 0 to 1")


class Timeline(pydantic.BaseModel):
    window_s: int = Field(description="Seconds, which are frames, of a window; the last one may be shorter")
    class_ids: list[int] = Field(description="Those of the video's labels")
    scores: list[list[float]] = Field(description="One list a window: the score of each class by those frames alone")


class Prediction(pydantic.BaseModel):
    video_id: str
    labels: list[Label] = Field(description="Best first; equal scores by class id")
    timeline: Timeline | None = Field(default=None, description="Only with timeline=true")


class PredictResponse(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str = Field(description="Of the exact files; the query parameter `version` asks for it")
    request_id: str
    predictions: list[Prediction] = Field(description="One for each video, in the order of the request")


class Health(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    status: str
    model_version: str


class Change(pydantic.BaseModel):
    """A change of releases: a name of `user_config.models`, or the number of a version in MLflow."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = Field(default=None, max_length=200, description="null finishes, or goes on with, the canary")
    share: float = Field(default=0.0, ge=0, le=1, description="Of the requests; for a canary alone, 0 ends it")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name not in cls.model_fields}


class ErrorDetail(pydantic.BaseModel):
    code: str
    message: str
    request_id: str


class ErrorResponse(pydantic.BaseModel):
    error: ErrorDetail


class RecordLine(pydantic.BaseModel):
    """One line of the answer to a whole shard: `video_id`, `labels` and `model_version`, or `error`."""

    model_config = pydantic.ConfigDict(protected_namespaces=())

    record: int = Field(description="Index in the shard")
    video_id: str | None = None
    labels: list[Label] | None = Field(default=None, description="Best first; equal scores by class id")
    model_version: str | None = None
    error: ErrorDetail | None = None
    is_last: bool | None = Field(default=None, description="true with an error after which nothing could be read")
