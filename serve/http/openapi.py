"""OpenAPI parts of the routes that read their requests themselves, of which FastAPI cannot derive any."""

from __future__ import annotations

from typing import Any

import pydantic

from serve.http.schemas import ErrorResponse

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
TFRECORD_TYPE = "application/x-tfrecord"
NDJSON_TYPE = "application/x-ndjson"
JSON_BYTES_HEADER = "inference-header-content-length"  # where the JSON of a body ends and its binary data begins

Responses = dict[int | str, dict[str, Any]]

BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
BINARY_ANSWER: Responses = {200: {"content": {BINARY_TYPE: {"schema": BINARY}}}}


class ProtocolError(pydantic.BaseModel):
    """An error as the Open Inference Protocol, KServe and TensorFlow Serving define it."""

    error: str


def reference(name: str) -> dict[str, str]:
    """Returns the schema of a type that `serve.http.api` adds to the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def refusals(*statuses: int, model: type[pydantic.BaseModel] = ErrorResponse) -> Responses:
    """Returns the responses of a route that can refuse requests with these statuses."""
    return {status: {"model": model} for status in statuses}


def protocol_refusals(*statuses: int) -> Responses:
    """Returns the same for a route of an inference protocol."""
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
