"""Which models there are and what they have done: two extensions of the Open Inference Protocol, as Triton has them.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md, of which an
operator's part is not offered here: see `serve.http.operator_routes`.
"""

from __future__ import annotations

import functools
from typing import Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serve.http.open_inference.routes import TAG, check_name
from serve.http.plain_routes import add_protocol_route
from serve.http.requests import check_token, read_json
from serve.http.service import Service
from serve.model.hosted_model import HostedModel
from serve.operations.statistics import ModelStatistics

_MOST_BYTES = 4096
"""Of a request for the index."""


class IndexRequest(pydantic.BaseModel):
    ready: bool | None = pydantic.Field(default=None, description="Whether models that do not answer are left out")


class IndexEntry(pydantic.BaseModel):
    name: str
    version: str
    state: str = pydantic.Field(description="READY or UNAVAILABLE")
    reason: str


class Index(pydantic.RootModel[list[IndexEntry]]):
    """One entry for each version: the current model, then a canary."""


class Duration(pydantic.BaseModel):
    count: int
    ns: int


class BatchStatistics(pydantic.BaseModel):
    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatisticsEntry(pydantic.BaseModel):
    name: str
    version: str
    last_inference: int = pydantic.Field(description="Milliseconds since 1970; 0 for none")
    inference_count: int = pydantic.Field(description="Videos")
    execution_count: int = pydantic.Field(description="Batches")
    inference_stats: dict[str, Duration] = pydantic.Field(description="Requests, and the time of their stages")
    batch_stats: list[BatchStatistics]


class StatisticsResponse(pydantic.BaseModel):
    """Over all replicas, since each has started; those of others are at most 3 seconds old."""

    model_stats: list[ModelStatisticsEntry]


def add_repository_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes; before those of the models, of which one could be called `stats`."""

    async def index(request: Request) -> Response:
        check_token(request, service)
        asked = await read_json(request, service, IndexRequest, max_bytes=_MOST_BYTES)
        return JSONResponse(_index(service, only_ready=bool(asked.ready)))

    async def statistics(request: Request) -> Response:
        check_token(request, service)
        models = _models_of(request, service)
        known = await service.statistics()
        entries = [
            {"name": service.args.name, "version": version, **known.get(version, ModelStatistics()).described()}
            for version in dict.fromkeys(model.version for model in models)
        ]
        return JSONResponse({"model_stats": entries})

    add = functools.partial(add_protocol_route, api, tag=TAG)
    listed = "The models of this service"
    add(
        "/v2/repository/index",
        index,
        summary=listed,
        answer=Index,
        statuses=[400, 401],
        body={"application/json": IndexRequest.model_json_schema()},
    )
    add("/v2/repository/index", index, summary=listed, answer=Index, statuses=[401])
    for path in ("/v2/models/stats", "/v2/models/{name}/stats", "/v2/models/{name}/versions/{version}/stats"):
        statuses = [401, 404] if "{" in path else [401]
        add(path, statistics, summary="What the models have done", answer=StatisticsResponse, statuses=statuses)


def _models_of(request: Request, service: Service) -> list[HostedModel]:
    if "name" in request.path_params:
        check_name(request, service)
    version = request.path_params.get("version")
    return service.host.models if version is None else [service.host.choose(version)]


def _index(service: Service, *, only_ready: bool) -> list[dict[str, Any]]:
    is_ready = service.is_ready()
    if only_ready and not is_ready:
        return []
    state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", "see the log of the service")
    versions = dict.fromkeys(model.version for model in service.host.models)
    name = service.args.name
    return [{"name": name, "version": version, "state": state, "reason": reason} for version in versions]
