"""The Open Inference Protocol below /v2: the same models and limits for clients that speak it."""

from __future__ import annotations

import functools

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serve.errors import RequestError
from serve.http import schemas
from serve.http.access_log import note_model
from serve.http.error_handlers import request_id
from serve.http.open_inference.protocol import (
    InferenceResponse,
    ModelMetadata,
    ServerMetadata,
    decode_inference,
    encode_inference,
    output_metadata,
)
from serve.http.open_inference.tensors import input_metadata
from serve.http.plain_routes import add_plain_route
from serve.http.requests import ask_model, encode, query_parameters
from serve.http.schemas import BINARY_TYPE, JSON_BYTES_HEADER, JSON_TYPE, protocol_refusals
from serve.http.service import Service
from serve.model.hosted_model import HostedModel
from serve.model.label_json import dump
from yt8m_ray import __version__

TAG = "Open Inference Protocol"

# JSON that describes binary data is shorter, and is read in the event loop.
_SHORT_JSON_BYTES = 4096

_EXTENSIONS = ["binary_tensor_data", "statistics"]
_PLATFORM = "pytorch_yt8m"
_MODEL_PATHS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


def add_protocol_routes(api: FastAPI, service: Service) -> None:
    async def server(_: Request) -> Response:
        return JSONResponse({"name": "yt8m_ray", "version": __version__, "extensions": _EXTENSIONS})

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        _check_ready(service)
        return JSONResponse({"ready": True})

    async def model_metadata(request: Request) -> Response:
        service.client_tokens.check(request)
        inputs = input_metadata(_described_model(request, service).predictor.spec)
        name, versions = service.args.name, service.host.versions
        metadata = ModelMetadata(
            name=name, versions=versions, platform=_PLATFORM, inputs=inputs, outputs=output_metadata()
        )
        return JSONResponse(metadata.model_dump())

    async def model_ready(request: Request) -> Response:
        model = _described_model(request, service)
        _check_ready(service)
        return JSONResponse({"name": service.args.name, "ready": True, "version": model.version})

    async def infer(request: Request) -> Response:
        service.client_tokens.check(request)
        return await _infer(request, service)

    add = functools.partial(add_plain_route, api, tag=TAG)
    add("/v2", server, summary="The server and its extensions", answer=ServerMetadata)
    add("/v2/health/live", live, summary="Whether the server lives")
    add("/v2/health/ready", ready, summary="Whether all models answer", responses=protocol_refusals(503))
    for path in _MODEL_PATHS:
        refusals = protocol_refusals(401, 404)
        tensors = "Tensors that the model takes and gives"
        add(path, model_metadata, summary=tensors, answer=ModelMetadata, responses=refusals)
        add(f"{path}/ready", model_ready, summary="Whether the model answers", responses=protocol_refusals(404, 503))
        add(
            f"{path}/infer",
            infer,
            summary="The best classes of each video, as tensors",
            answer=InferenceResponse,
            responses=schemas.INFERENCE_RESPONSES,
            parameters=schemas.INFERENCE_PARAMETERS,
            body=schemas.INFERENCE_BODY,
        )


def _check_ready(service: Service) -> None:
    if not service.is_ready():
        raise RequestError(503, "not ready: see the log of the service")


def check_name(request: Request, service: Service) -> None:
    name = request.path_params["name"]
    if name != service.args.name:
        raise RequestError(404, f"model: {name[:60]!r} is not served; valid: {service.args.name}")


def named_versions(request: Request, service: Service) -> list[str]:
    """Returns the version that the path names, or all that answer; RequestError 404 for another name or version."""
    if "name" in request.path_params:
        check_name(request, service)
    version = request.path_params.get("version")
    return service.host.versions if version is None else [service.host.choose(version).version]


def _described_model(request: Request, service: Service) -> HostedModel:
    """Returns the model that the path names; without a version, the current one."""
    check_name(request, service)
    version = request.path_params.get("version")
    return service.host.current if version is None else service.host.choose(version)


async def _infer(request: Request, service: Service) -> Response:
    query_parameters(request, ())
    check_name(request, service)
    model = service.host.choose(request.path_params.get("version"))
    note_model(request, model.version)
    json_bytes = _json_bytes(request)
    spec = model.predictor.spec
    decode = functools.partial(decode_inference, json_bytes=json_bytes, spec=spec, limits=service.limits)
    # Lists of numbers take long to read, and many rows to copy.
    is_short = json_bytes is not None and json_bytes <= _SHORT_JSON_BYTES
    inference, answers, _ = await ask_model(request, service, model, decode, decode if is_short else None)

    def write() -> Response:
        identity = inference.id or request_id(request)
        head = {"model_name": service.args.name, "model_version": model.version, "id": identity}
        content, parts = encode_inference(inference, answers, head, model.predictor.vocabulary.name)
        text = dump(content).encode()
        if not parts:
            return Response(text, media_type=JSON_TYPE)
        body = b"".join([text, *parts])
        return Response(body, media_type=BINARY_TYPE, headers={JSON_BYTES_HEADER: str(len(text))})

    return await encode(request, write, num_labels=len(answers) * inference.top_k)


def _json_bytes(request: Request) -> int | None:
    given = request.headers.get(JSON_BYTES_HEADER)
    if given is not None and not (given.isascii() and given.isdigit() and len(given) <= 12):
        raise RequestError(400, f"{JSON_BYTES_HEADER}: expected a number of bytes, found {given[:60]!r}")
    return None if given is None else int(given)
