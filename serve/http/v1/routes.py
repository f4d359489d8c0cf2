"""POST /v1/models/NAME:predict and what belongs to it, for clients of the V1 protocol of KServe and TF Serving."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.convertors import StringConvertor, register_url_convertor

from serve.http.access_log import NOTES, note_model, note_stage
from serve.http.open_inference.routes import check_name
from serve.http.plain_routes import add_protocol_route
from serve.http.requests import check_token, deadline_of, decode_body, query_parameters, wait_for
from serve.http.service import Service
from serve.http.v1.instances import InstancesResponse, decode_instances, predictions
from serve.http.video_input import parse_top_k
from serve.model.label_json import dump

_TAG = "KServe V1 and TensorFlow Serving"
_REQUEST = {
    "$ref": "#/components/schemas/InstancesRequest"
}  # with as many instances as the limits allow: `serve.http.api`


class _NameConvertor(StringConvertor):
    regex = "[^/:]+"  # `yt8m:predict` is no model, but a verb of one


register_url_convertor("model_name", _NameConvertor())

_MODEL = "/v1/models/{name:model_name}"
_MODEL_PATHS = (_MODEL, f"{_MODEL}/versions/{{version:model_name}}")


class ModelList(pydantic.BaseModel):
    models: list[str]


class VersionError(pydantic.BaseModel):
    error_code: str
    error_message: str


class VersionStatus(pydantic.BaseModel):
    version: str
    state: str = pydantic.Field(description="AVAILABLE or LOADING")
    status: VersionError


class ModelStatus(pydantic.BaseModel):
    """What both protocols say: KServe's name and ready, and TensorFlow Serving's model_version_status."""

    name: str
    ready: bool
    model_version_status: list[VersionStatus]


def add_instance_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes."""

    async def models(_: Request) -> Response:
        return JSONResponse({"models": [service.args.name]})

    async def status(request: Request) -> Response:
        check_name(request, service)
        version = request.path_params.get("version")
        hosted = service.host.models if version is None else [service.host.choose(version)]
        is_ready = service.is_ready()
        content = _status(service.args.name, [model.version for model in hosted], is_ready)
        return JSONResponse(content, status_code=200 if is_ready else 503)

    async def predict(request: Request) -> Response:
        check_token(request, service)
        return await _predict(request, service)

    add = functools.partial(add_protocol_route, api, tag=_TAG)
    add("/v1/models", models, summary="The models of this service", answer=ModelList)
    for path in _MODEL_PATHS:
        add(
            f"{path}:predict",
            predict,
            summary="The best classes of each video, in rows",
            answer=InstancesResponse,
            statuses=[400, 401, 404, 408, 413, 415, 503, 504],
            parameters=[{"name": "top_k", "in": "query", "schema": {"type": "integer", "minimum": 1}}],
            body={"application/json": _REQUEST},
        )
        add(path, status, summary="Whether the model answers, and its versions", answer=ModelStatus, statuses=[404])


async def _predict(request: Request, service: Service) -> Response:
    check_name(request, service)
    top_k = parse_top_k(query_parameters(request, ("top_k",)).get("top_k"))
    model = service.host.choose(request.path_params.get("version"))
    note_model(request, model.version)
    deadline = deadline_of(request, service)
    service.batcher.check_room()  # before the body is read: a refusal must cost next to nothing
    decode = functools.partial(decode_instances, top_k=top_k, spec=model.predictor.spec, limits=service.limits)
    asked = await decode_body(request, service, deadline, decode)
    request.scope[NOTES]["videos"] = len(asked.rows)
    answers = await wait_for(service, model, asked.rows, asked.top_k, deadline, request)
    started = time.perf_counter()

    def write() -> str:
        return dump({"predictions": predictions(asked.video_ids, answers, model.predictor.vocabulary)})

    is_short = len(answers) * asked.top_k <= 1000
    text = write() if is_short else await asyncio.to_thread(write)
    note_stage(request, "encode", time.perf_counter() - started)
    return Response(text, media_type="application/json")


def _status(name: str, versions: list[str], is_ready: bool) -> dict[str, Any]:
    state, code = ("AVAILABLE", "OK") if is_ready else ("LOADING", "UNAVAILABLE")
    message = "" if is_ready else "see the log of the service"
    return {
        "name": name,
        "ready": is_ready,
        "model_version_status": [
            {"version": version, "state": state, "status": {"error_code": code, "error_message": message}}
            for version in dict.fromkeys(versions)
        ],
    }
