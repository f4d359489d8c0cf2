"""The V1 protocol of KServe and TensorFlow Serving: POST /v1/models/NAME:predict and what belongs to it.

https://www.tensorflow.org/tfx/serving/api_rest in its row format.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.convertors import StringConvertor, register_url_convertor

from serve.errors import RequestError
from serve.http import schemas
from serve.http.access_log import note_model
from serve.http.open_inference.routes import check_name, named_versions
from serve.http.plain_routes import add_plain_route
from serve.http.requests import ask_model, encode, query_parameters
from serve.http.schemas import JSON_TYPE, protocol_refusals
from serve.http.service import Service
from serve.http.video_input import (
    PredictionInput,
    checked_json,
    decode_videos,
    parameter_top_k,
    parse_top_k,
    validate_json,
)
from serve.model.batching import Answer
from serve.model.label_json import dump
from serve.settings import Limits
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.mlflow_model.video_table import ANSWER_COLUMNS

INSTANCES = "instances"
_BASE64 = "b64"
# TensorFlow Serving takes the default signature where a request names none.
_SIGNATURES = ("", "serving_default")
_TAG = "KServe V1 and TensorFlow Serving"


class _NameConvertor(StringConvertor):
    # In `yt8m:predict` the verb is not part of the name.
    regex = "[^/:]+"


register_url_convertor("model_name", _NameConvertor())

_MODEL = "/v1/models/{name:model_name}"
_MODEL_PATHS = (_MODEL, f"{_MODEL}/versions/{{version:model_name}}")


class InstancesRequest(pydantic.BaseModel):
    """Videos in rows; keys of other servers are ignored."""

    model_config = pydantic.ConfigDict(strict=True)

    # `request_type` adds the largest number.
    instances: list[Any] = Field(
        min_length=1,
        description='A video each, as in /v1/predict; {"b64": "..."} stands for bytes, and where the model has one '
        "feature alone, its values may stand for the video",
    )
    signature_name: str | None = Field(default=None, description="serving_default")
    parameters: dict[str, Any] | None = Field(default=None, description="top_k")


@functools.lru_cache(maxsize=16)
def request_type(max_videos: int) -> type[InstancesRequest]:
    """Returns the type of a request with at most `max_videos` instances."""
    few: Any = (Annotated[list[Any], Field(max_length=max_videos)], InstancesRequest.model_fields["instances"])
    return pydantic.create_model(
        "InstancesRequest", __base__=InstancesRequest, __doc__=InstancesRequest.__doc__, instances=few
    )


class InstancePrediction(pydantic.BaseModel):
    """The best classes of a video, best first."""

    video_id: str
    class_ids: list[int]
    names: list[str | None]
    scores: list[float]


class InstancesResponse(pydantic.BaseModel):
    predictions: list[InstancePrediction] = Field(description="One for each instance, in their order")


class ModelList(pydantic.BaseModel):
    models: list[str]


class VersionError(pydantic.BaseModel):
    error_code: str
    error_message: str


class VersionStatus(pydantic.BaseModel):
    version: str
    state: str = Field(description="AVAILABLE or LOADING")
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
        versions = named_versions(request, service)
        is_ready, name = service.is_ready(), service.args.name
        state, code = ("AVAILABLE", "OK") if is_ready else ("LOADING", "UNAVAILABLE")
        error = {"error_code": code, "error_message": "" if is_ready else "see the log of the service"}
        statuses = [{"version": version, "state": state, "status": error} for version in versions]
        content = {"name": name, "ready": is_ready, "model_version_status": statuses}
        return JSONResponse(content, status_code=200 if is_ready else 503)

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
            responses=protocol_refusals(*schemas.PROTOCOL_PREDICT_STATUSES),
            parameters=schemas.INSTANCES_PARAMETERS,
            body=schemas.INSTANCES_BODY,
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


def decode_instances(body: bytes, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of a request, whose own `parameters.top_k` takes precedence."""
    request = validate_json(request_type(limits.max_videos), checked_json(body, spec, limits))
    if request.signature_name not in (None, *_SIGNATURES):
        raise RequestError(422, f"signature_name: expected serving_default, found {request.signature_name[:60]!r}")
    asked = parameter_top_k(request.parameters or {})
    videos = [_video(instance, spec) for instance in request.instances]
    return decode_videos(videos, INSTANCES, top_k if asked is None else asked, spec, limits)


def predictions(video_ids: Sequence[str], answers: Sequence[Answer], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    found = []
    for video_id, answer in zip(video_ids, answers, strict=True):
        names = [vocabulary.name(class_id) for class_id in answer.class_ids]
        found.append(dict(zip(ANSWER_COLUMNS, (video_id, answer.class_ids, names, answer.scores), strict=True)))
    return found


def _video(instance: Any, spec: FeatureSpec) -> Any:
    # Valid or not: videos are checked as those of /v1/predict.
    names = list(spec.sizes)
    if len(names) == 1 and (not isinstance(instance, dict) or instance.keys() == {_BASE64}):
        return {names[0]: _value(instance)}
    if not isinstance(instance, dict):
        return instance
    return {name: _value(value) for name, value in instance.items()}


def _value(value: Any) -> Any:
    is_bytes = isinstance(value, Mapping) and value.keys() == {_BASE64}
    return value[_BASE64] if is_bytes else value
