"""The OpenAPI document: types of requests and answers, and what FastAPI cannot derive of routes that read bodies."""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic import Field

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
TFRECORD_TYPE = "application/x-tfrecord"
NDJSON_TYPE = "application/x-ndjson"
JSON_BYTES_HEADER = "inference-header-content-length"  # where the JSON of a body ends and its binary data begins

Responses = dict[int | str, dict[str, Any]]

BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
BINARY_ANSWER: Responses = {200: {"content": {BINARY_TYPE: {"schema": BINARY}}}}


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
    model_name: str
    model_version: str = Field(description="Of the exact files; the query parameter `version` asks for it")
    request_id: str
    predictions: list[Prediction] = Field(description="One for each video, in the order of the request")


class Health(pydantic.BaseModel):
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

    record: int = Field(description="Index in the shard")
    video_id: str | None = None
    labels: list[Label] | None = Field(default=None, description="Best first; equal scores by class id")
    model_version: str | None = None
    error: ErrorDetail | None = None
    is_last: bool | None = Field(default=None, description="true with an error after which nothing could be read")


class ProtocolError(pydantic.BaseModel):
    """An error as the Open Inference Protocol, KServe and TensorFlow Serving define it."""

    error: str


def reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def refusals(*statuses: int, model: type[pydantic.BaseModel] = ErrorResponse) -> Responses:
    return {status: {"model": model} for status in statuses}


def protocol_refusals(*statuses: int) -> Responses:
    return refusals(*statuses, model=ProtocolError)


PREDICT_STATUSES = (400, 401, 404, 408, 413, 415, 422, 503, 504)
PROTOCOL_PREDICT_STATUSES = (400, 401, 404, 408, 413, 415, 503, 504)  # those protocols have no 422


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_COUNT = {"type": "integer", "minimum": 1}
_SWITCH = {"type": "boolean"}

PREDICT_PARAMETERS = (
    _query("top_k", _COUNT, "Classes a video; the field of that name in a JSON body goes before it."),
    _query("threshold", {"type": "number", "minimum": 0, "maximum": 1}, "Least score of a label."),
    _query("names", {**_SWITCH, "default": True}, "Whether labels have names."),
    _query("timeline", {**_SWITCH, "default": False}, "Whether labels are scored every 5 seconds too."),
    _query("version", {"type": "string"}, "The model's version; without it, whichever answers."),
)
PREDICT_BODY = {JSON_TYPE: reference("PredictRequest"), BINARY_TYPE: BINARY, TFRECORD_TYPE: BINARY}
PREDICT_RESPONSES: Responses = {
    200: {
        "description": f"For {TFRECORD_TYPE} one line a record, in order: a Prediction or an error, with its `record`.",
        "content": {NDJSON_TYPE: {"schema": reference("RecordLine")}},
    },
    **refusals(*PREDICT_STATUSES),
}

INSTANCES_PARAMETERS = ({"name": "top_k", "in": "query", "schema": _COUNT},)
INSTANCES_BODY = {JSON_TYPE: reference("InstancesRequest")}

INFERENCE_PARAMETERS = ({"name": JSON_BYTES_HEADER, "in": "header", "schema": {"type": "integer", "minimum": 0}},)
INFERENCE_BODY = {JSON_TYPE: reference("InferenceRequest"), BINARY_TYPE: BINARY}
INFERENCE_RESPONSES = {**BINARY_ANSWER, **protocol_refusals(*PROTOCOL_PREDICT_STATUSES)}
