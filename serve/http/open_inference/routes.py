"""The Open Inference Protocol below /v2: the same models and limits for clients that speak it."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serve.errors import RequestError
from serve.http.access_log import NOTES, note_model, note_stage
from serve.http.error_handlers import request_id
from serve.http.open_inference.protocol import (
    Inference,
    InferenceResponse,
    ModelMetadata,
    ServerMetadata,
    decode_inference,
    encode_inference,
    output_metadata,
)
from serve.http.open_inference.tensors import input_metadata
from serve.http.plain_routes import add_protocol_route
from serve.http.requests import check_token, deadline_of, decode_body, query_parameters, wait_for
from serve.http.service import Service
from serve.model.batching import Answer
from serve.model.hosted_model import HostedModel
from yt8m_ray import __version__

TAG = "Open Inference Protocol"

JSON_BYTES_HEADER = "inference-header-content-length"
"""Says where the JSON of a body ends and its binary data begins."""

_SHORT_JSON_BYTES = 4096
"""Of what describes binary data: so much is read in the event loop."""

_EXTENSIONS = ["binary_tensor_data", "statistics"]
_PLATFORM = "pytorch_yt8m"
_INFERENCE_BODY = {
    "application/json": {"$ref": "#/components/schemas/InferenceRequest"},
    "application/octet-stream": {"type": "string", "format": "binary"},
}
_MODEL_PATHS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


def add_protocol_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes."""

    async def server(_: Request) -> Response:
        return JSONResponse({"name": "yt8m_ray", "version": __version__, "extensions": _EXTENSIONS})

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        _check_ready(service)
        return JSONResponse({"ready": True})

    async def model_metadata(request: Request) -> Response:
        check_token(request, service)
        return JSONResponse(_metadata(service, model_of(request, service, for_inference=False)))

    async def model_ready(request: Request) -> Response:
        model = model_of(request, service, for_inference=False)
        _check_ready(service)
        return JSONResponse({"name": service.args.name, "ready": True, "version": model.version})

    async def infer(request: Request) -> Response:
        check_token(request, service)
        return await _infer(request, service)

    add = functools.partial(add_protocol_route, api, tag=TAG)
    add("/v2", server, summary="The server and its extensions", answer=ServerMetadata)
    add("/v2/health/live", live, summary="Whether the server lives")
    add("/v2/health/ready", ready, summary="Whether all models answer", statuses=[503])
    for path in _MODEL_PATHS:
        tensors = "Tensors that the model takes and gives"
        add(path, model_metadata, summary=tensors, answer=ModelMetadata, statuses=[401, 404])
        add(f"{path}/ready", model_ready, summary="Whether the model answers", statuses=[404, 503])
        add(
            f"{path}/infer",
            infer,
            summary="The best classes of each video, as tensors",
            answer=InferenceResponse,
            statuses=[400, 401, 404, 408, 413, 415, 503, 504],
            parameters=[{"name": JSON_BYTES_HEADER, "in": "header", "schema": {"type": "integer", "minimum": 0}}],
            body=_INFERENCE_BODY,
            binary_answer=True,
        )


def _check_ready(service: Service) -> None:
    if not service.is_ready():
        raise RequestError(503, "not ready: see the log of the service")


def check_name(request: Request, service: Service) -> None:
    """Checks that the path names the model of this service; RequestError 404 says what its name is."""
    name = request.path_params["name"]
    if name != service.args.name:
        raise RequestError(404, f"model: {name[:60]!r} is not served; valid: {service.args.name}")


def model_of(request: Request, service: Service, *, for_inference: bool) -> HostedModel:
    """Returns the model that the path names; without a version, whichever answers, or the current one to describe."""
    check_name(request, service)
    version = request.path_params.get("version")
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
    model = model_of(request, service, for_inference=True)
    note_model(request, model.version)
    json_bytes = _json_bytes(request)
    deadline = deadline_of(request, service)
    service.batcher.check_room()  # before the body is read: a refusal must cost next to nothing
    decode = functools.partial(
        decode_inference, json_bytes=json_bytes, spec=model.predictor.spec, limits=service.limits
    )
    # Lists of numbers take long to read, and many rows to copy.
    is_short = json_bytes is not None and json_bytes <= _SHORT_JSON_BYTES
    inference = await decode_body(request, service, deadline, decode, decode if is_short else None)
    request.scope[NOTES]["videos"] = len(inference.rows)
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
