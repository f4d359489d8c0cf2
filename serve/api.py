"""The HTTP application around a predictor: routes, body limits, OpenAPI and its page. Knows nothing of Ray.

Lives here: what every endpoint does with a request. Does not live here: batching and replicas (`serve.deployments`).
"""

from __future__ import annotations

import asyncio
import json
from importlib import resources
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from serve.decoding import PredictionInput, decode_binary, decode_json, parse_top_k
from serve.errors import RequestError, add_error_handlers
from serve.schemas import ErrorResponse, Health, Limits, PredictRequest, PredictResponse
from yt8m_ray import __version__
from yt8m_ray.data.features import VideoRow
from yt8m_ray.inference.predictor import Predictor

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
ASSETS_PATH = "/docs/assets"

DESCRIPTION = (
    "Predicts the topics of a video from its YouTube-8M features. Send JSON with one or more videos, or one serialized "
    "tf.train.SequenceExample (frames) or tf.train.Example (means) as application/octet-stream. Without a content-type "
    "a body that begins with { is JSON, and any other is a record."
)

Best = tuple[list[int], list[float]]
"""Class ids and scores of one video, best first."""


class Service(Protocol):
    """What the application asks of the replica that it runs in."""

    @property
    def predictor(self) -> Predictor: ...

    @property
    def limits(self) -> Limits: ...

    async def best_classes(self, row: VideoRow, top_k: int) -> Best: ...


def build_api(service: Service) -> FastAPI:
    """Returns the application; `service` may change its limits at any time."""
    api = _Api(title="yt8m_ray", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    add_error_handlers(api)
    _add_docs(api)

    @api.post(
        "/v1/predict",
        summary="The best classes of each video",
        response_model=PredictResponse,
        responses={status: {"model": ErrorResponse} for status in (400, 413, 422)},
        openapi_extra=_REQUEST_BODY,
    )
    async def predict(request: Request) -> Response:
        content_type = _content_type(request)
        top_k = parse_top_k(_query_parameter(request, "top_k"))
        body = await _read_body(request, service.limits.max_body_bytes)
        # Long clips and long answers take milliseconds and more: off the event loop, so that other requests go on.
        asked = await asyncio.to_thread(_decode, content_type, body, top_k, service)
        best = await asyncio.gather(*(service.best_classes(row, asked.top_k) for row in asked.rows))
        answer = await asyncio.to_thread(_answer, service.predictor, asked, best)
        return Response(answer, media_type=JSON_TYPE)

    @api.get("/healthz", summary="Whether this replica answers, and with which model", response_model=Health)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok", "model_version": service.predictor.version})

    return api


def _content_type(request: Request) -> str:
    """Returns one of the two types, or the empty string where the request names none."""
    given = request.headers.get("content-type", "")
    content_type = given.partition(";")[0].strip().lower()
    if content_type not in (JSON_TYPE, BINARY_TYPE, ""):
        raise RequestError(400, f"content-type: expected {JSON_TYPE} or {BINARY_TYPE}, found {given[:100]!r}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError(400, f"content-encoding: expected none, found {encoding[:100]!r}")
    return content_type


def _query_parameter(request: Request, name: str) -> str | None:
    """Returns the only query parameter that is known, None where it is not given."""
    for key, _ in request.query_params.multi_items():
        if key != name:
            raise RequestError(422, f"query: unknown parameter {key[:60]!r}; valid: {name}")
    given = request.query_params.getlist(name)
    if len(given) > 1:
        raise RequestError(422, f"query: {name} is given {len(given)} times")
    return given[0] if given else None


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Returns the body, and refuses one that says or turns out to be too large without holding more than the limit."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told[:18]) > max_bytes:
        raise RequestError(413, f"body: at most {max_bytes} bytes, found {told[:18]}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise RequestError(413, f"body: at most {max_bytes} bytes, found more")
    return bytes(body)


def _decode(content_type: str, body: bytes, top_k: int | None, service: Service) -> PredictionInput:
    spec, limits = service.predictor.spec, service.limits
    # No record begins with a brace: in protobuf it opens a group, which neither message has.
    if content_type == JSON_TYPE or (not content_type and body[:1] == b"{"):
        return decode_json(body, top_k, spec, limits)
    return decode_binary(body, top_k, spec, limits)


def _answer(predictor: Predictor, asked: PredictionInput, best: list[Best]) -> str:
    """Returns a PredictResponse as JSON, written video by video: a call of json.dumps holds up all other threads."""
    predictions = []
    for video_id, (class_ids, scores) in zip(asked.video_ids, best, strict=True):
        labels = [
            {"class_id": class_id, "name": predictor.vocabulary.name(class_id), "score": score}
            for class_id, score in zip(class_ids, scores, strict=True)
        ]
        predictions.append(_dump({"video_id": video_id, "labels": labels}))
    return f'{{"model_version":{_dump(predictor.version)},"predictions":[{",".join(predictions)}]}}'


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class _Api(FastAPI):
    """FastAPI whose OpenAPI document also holds the types of the bodies that the application reads itself."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            schema = PredictRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"]["schemas"] |= {**schema.pop("$defs"), "PredictRequest": schema}
        assert self.openapi_schema is not None
        return self.openapi_schema


_REQUEST_BODY: dict[str, Any] = {
    "parameters": [
        {
            "name": "top_k",
            "in": "query",
            "description": "Classes a video; the field of that name in a JSON body goes before it.",
            "schema": {"type": "integer", "minimum": 1},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            JSON_TYPE: {"schema": {"$ref": "#/components/schemas/PredictRequest"}},
            BINARY_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


def _add_docs(api: FastAPI) -> None:
    """Serves the OpenAPI page at /docs with assets from this host; FastAPI's own page loads them from another."""
    api.mount(ASSETS_PATH, StaticFiles(directory=str(resources.files("fastapi_offline") / "static")))

    @api.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="yt8m_ray",
            swagger_js_url=f"{root}{ASSETS_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{ASSETS_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{root}{ASSETS_PATH}/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},  # the default asks a validator on the internet
        )
