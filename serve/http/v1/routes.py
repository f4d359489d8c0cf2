"""POST /v1/models/NAME:predict and related routes, for clients of the V1 protocol of KServe and TF Serving."""

from __future__ import annotations

import functools
from typing import Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.convertors import StringConvertor, register_url_convertor

from serve.http import openapi
from serve.http.access_log import note_model
from serve.http.open_inference.routes import check_name
from serve.http.openapi import JSON_TYPE, protocol_refusals
from serve.http.plain_routes import add_plain_route
from serve.http.requests import ask_model, encode, query_parameters
from serve.http.service import Service
from serve.http.v1.instances import InstancesResponse, decode_instances, predictions
from serve.http.video_input import parse_top_k
from serve.model.label_json import dump

_TAG = "KServe V1 and TensorFlow Serving"


class _NameConvertor(StringConvertor):
    regex = "[^/:]+"  # in `yt8m:predict` the verb is not part of the name


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
    """The answers of both protocols: KServe's name and ready, and TensorFlow Serving's model_version_status."""

    name: str
    ready: bool
    model_version_status: list[VersionStatus]


def add_instance_routes(api: FastAPI, service: Service) -> None:
    async def models(_: Request) -> Response:
        return JSONResponse({"models": [service.args.name]})

    async def status(request: Request) -> Response:
        check_name(request, service)
        version = request.path_params.get("version")
        versions = service.host.versions if version is None else [service.host.choose(version).version]
        is_ready = service.is_ready()
        return JSONResponse(_status(service.args.name, versions, is_ready), status_code=200 if is_ready else 503)

    async def predict(request: Request) -> Response:
        service.client_tokens.check(request)
        return await _predict(request, service)

    add = functools.partial(add_plain_route, api, tag=_TAG)
    add("/v1/models", models, summary="The models of this service", answer=ModelList)
    described = "Whether the model answers, and its versions"
    for path in _MODEL_PATHS:
        add(
            f"{path}:predict",
            predict,
            summary="The best classes of each video, in rows",
            answer=InstancesResponse,
            responses=protocol_refusals(*openapi.PROTOCOL_PREDICT_STATUSES),
            parameters=openapi.INSTANCES_PARAMETERS,
            body=openapi.INSTANCES_BODY,
        )
        add(path, status, summary=described, answer=ModelStatus, responses=protocol_refusals(404))


async def _predict(request: Request, service: Service) -> Response:
    check_name(request, service)
    top_k = parse_top_k(query_parameters(request, ("top_k",)).get("top_k"))
    model = service.host.choose(request.path_params.get("version"))
    note_model(request, model.version)
    decode = functools.partial(decode_instances, top_k=top_k, spec=model.predictor.spec, limits=service.limits)
    asked, answers, _ = await ask_model(request, service, model, decode)

    def write() -> str:
        return dump({"predictions": predictions(asked.video_ids, answers, model.predictor.vocabulary)})

    text = await encode(request, write, num_labels=len(answers) * asked.top_k)
    return Response(text, media_type=JSON_TYPE)


def _status(name: str, versions: list[str], is_ready: bool) -> dict[str, Any]:
    state, code = ("AVAILABLE", "OK") if is_ready else ("LOADING", "UNAVAILABLE")
    error = {"error_code": code, "error_message": "" if is_ready else "see the log of the service"}
    statuses = [{"version": version, "state": state, "status": error} for version in versions]
    return {"name": name, "ready": is_ready, "model_version_status": statuses}
