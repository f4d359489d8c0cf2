"""The Open Inference Protocol below /v2: the same models and limits for clients that speak it.

Lives here: routes and their descriptions. Does not live here: the protocol's bodies (`serve.inference_protocol`).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serve.access import NOTES, note_stage
from serve.batching import Answer
from serve.errors import RequestError, request_id
from serve.hosting import HostedModel
from serve.inference_protocol import (
    Inference,
    InferenceResponse,
    ModelMetadata,
    ServerMetadata,
    decode_inference,
    encode_inference,
    output_metadata,
)
from serve.inference_tensors import input_metadata
from serve.requests import PlainRoute, check_token, deadline_of, decode_body, query_parameters
from serve.service import Service
from serve.waiting import wait_for
from yt8m_ray import __version__

JSON_BYTES_HEADER = "inference-header-content-length"
"""Says where the JSON of a body ends and its binary data begins."""

_SHORT_JSON_BYTES = 4096
"""Of what describes binary data: so much is read in the event loop."""

_EXTENSION = "binary_tensor_data"
_PLATFORM = "pytorch_yt8m"
_MODEL_PATHS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ProtocolError(pydantic.BaseModel):
    error: str


def add_protocol_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes."""

    async def server(_: Request) -> Response:
        return JSONResponse({"name": "yt8m_ray", "version": __version__, "extensions": [_EXTENSION]})

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        _check_ready(service)
        return JSONResponse({"ready": True})

    async def model_metadata(request: Request) -> Response:
        check_token(request, service)
        return JSONResponse(_metadata(service, _model_of(request, service, for_inference=False)))

    async def model_ready(request: Request) -> Response:
        model = _model_of(request, service, for_inference=False)
        _check_ready(service)
        return JSONResponse({"name": service.args.name, "ready": True, "version": model.version})

    async def infer(request: Request) -> Response:
        check_token(request, service)
        return await _infer(request, service)

    _add(api, "/v2", server, "The server and its extensions of the Open Inference Protocol", ServerMetadata)
    _add(api, "/v2/health/live", live, "Whether the server lives")
    _add(api, "/v2/health/ready", ready, "Whether all models answer")
    for path in _MODEL_PATHS:
        _add(api, path, model_metadata, "Tensors that the model takes and gives", ModelMetadata)
        _add(api, f"{path}/ready", model_ready, "Whether the model answers")
        _add(api, f"{path}/infer", infer, "The best classes of each video, as tensors", InferenceResponse, is_post=True)


def _add(
    api: FastAPI,
    path: str,
    handler: Handler,
    summary: str,
    answer: type[pydantic.BaseModel] | None = None,
    *,
    is_post: bool = False,
) -> None:
    """Adds a route and what the OpenAPI document says of it: handlers read their requests themselves."""
    names = [name for name in ("name", "version") if f"{{{name}}}" in path]
    statuses = [401, 404] if names else []
    if path.endswith("/ready"):
        statuses = [*statuses[1:], 503]
    extra: dict[str, Any] = {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    }
    responses: dict[int | str, dict[str, Any]] = {}
    if is_post:
        statuses = [400, *statuses, 408, 413, 415, 503, 504]
        binary = {"schema": {"type": "string", "format": "binary"}}
        reference = {"schema": {"$ref": "#/components/schemas/InferenceRequest"}}
        extra["parameters"].append(
            {"name": JSON_BYTES_HEADER, "in": "header", "schema": {"type": "integer", "minimum": 0}}
        )
        content = {"application/json": reference, "application/octet-stream": binary}
        extra["requestBody"] = {"required": True, "content": content}
        responses[200] = {"content": {"application/octet-stream": binary}}
    responses |= {status: {"model": ProtocolError} for status in statuses}
    api.router.add_api_route(
        path,
        handler,
        route_class_override=PlainRoute,
        methods=["POST" if is_post else "GET"],
        summary=summary,
        response_model=answer,
        responses=responses,
        openapi_extra=extra,
        tags=["Open Inference Protocol"],
    )


def _check_ready(service: Service) -> None:
    if not service.is_ready():
        raise RequestError(503, "not ready: see the log of the service")


def _model_of(request: Request, service: Service, *, for_inference: bool) -> HostedModel:
    """Returns the model that the path names; without a version, whichever answers, or the current one to describe."""
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != service.args.name:
        raise RequestError(404, f"model: {name[:60]!r} is not served; valid: {service.args.name}")
    if version is None and not for_inference:
        return service.host.current
    return service.host.choose(version)


def _metadata(service: Service, model: HostedModel) -> dict[str, Any]:
    return ModelMetadata(
        name=service.args.name,
        versions=list(dict.fromkeys(each.version for each in service.host.models)),
        platform=_PLATFORM,
        inputs=input_metadata(model.predictor.spec),
        outputs=output_metadata(),
    ).model_dump()


async def _infer(request: Request, service: Service) -> Response:
    query_parameters(request, ())
    model = _model_of(request, service, for_inference=True)
    json_bytes = _json_bytes(request)
    deadline = deadline_of(request, service)
    service.batcher.check_room()  # before the body is read: a refusal must cost next to nothing
    decode = functools.partial(
        decode_inference, json_bytes=json_bytes, spec=model.predictor.spec, limits=service.limits
    )
    # Lists of numbers take long to read, and many rows to copy.
    is_short = json_bytes is not None and json_bytes <= _SHORT_JSON_BYTES
    inference = await decode_body(request, service, deadline, decode, decode if is_short else None)
    request.scope.setdefault(NOTES, {}).update(model=model.version, videos=len(inference.rows))
    answers = await wait_for(service, model, inference.rows, inference.top_k, deadline, request)
    started = time.perf_counter()
    identity = inference.id or request_id(request)
    write = functools.partial(_write, service, model, inference, answers, identity)
    is_short = len(answers) * inference.top_k <= 1000
    response = write() if is_short else await asyncio.to_thread(write)
    note_stage(request, "encode", time.perf_counter() - started)
    return response


def _json_bytes(request: Request) -> int | None:
    told = request.headers.get(JSON_BYTES_HEADER)
    if told is not None and not (told.isascii() and told.isdigit() and len(told) <= 12):
        raise RequestError(400, f"{JSON_BYTES_HEADER}: expected a number of bytes, found {told[:60]!r}")
    return None if told is None else int(told)


def _write(
    service: Service, model: HostedModel, inference: Inference, answers: list[Answer], identity: str
) -> Response:
    head = {"model_name": service.args.name, "model_version": model.version, "id": identity}
    content, parts = encode_inference(inference, answers, head, model.predictor.vocabulary.name)
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if not parts:
        return Response(text, media_type="application/json")
    body = b"".join(itertools.chain([text], parts))
    return Response(body, media_type="application/octet-stream", headers={JSON_BYTES_HEADER: str(len(text))})
