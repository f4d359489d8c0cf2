"""The index of models and their statistics: two extensions of the Open Inference Protocol by Triton.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md without loading
and unloading, for which operators have `serve.http.operator_routes`.
"""

from __future__ import annotations

import functools

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serve.http.open_inference.routes import TAG, named_versions
from serve.http.plain_routes import add_plain_route
from serve.http.requests import read_json
from serve.http.schemas import JSON_TYPE, protocol_refusals
from serve.http.service import Service
from serve.operations.statistics import ModelStatistics

_MAX_INDEX_BYTES = 4096  # of a request for the index


class IndexRequest(pydantic.BaseModel):
    ready: bool | None = pydantic.Field(default=None, description="Whether models that do not answer are left out")


class IndexEntry(pydantic.BaseModel):
    name: str
    version: str
    state: str = pydantic.Field(description="READY or UNAVAILABLE")
    reason: str


class Index(pydantic.RootModel[list[IndexEntry]]):
    """One entry for each version: the current model, then the canary."""


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
    """Over all replicas, since each has started; those of other replicas are up to 3 seconds old."""

    model_stats: list[ModelStatisticsEntry]


def add_repository_routes(api: FastAPI, service: Service) -> None:
    # Before the routes of the models, of which one could be called `stats`.

    async def index(request: Request) -> Response:
        service.client_tokens.check(request)
        asked = await read_json(request, service, IndexRequest, max_bytes=_MAX_INDEX_BYTES)
        is_ready, name = service.is_ready(), service.args.name
        state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", "see the log of the service")
        versions = service.host.versions if is_ready or not asked.ready else []
        entries = [{"name": name, "version": each, "state": state, "reason": reason} for each in versions]
        return JSONResponse(entries)

    async def statistics(request: Request) -> Response:
        service.client_tokens.check(request)
        versions = named_versions(request, service)
        known = await service.statistics()
        entries = [
            {"name": service.args.name, "version": version, **known.get(version, ModelStatistics()).described()}
            for version in versions
        ]
        return JSONResponse({"model_stats": entries})

    add = functools.partial(add_plain_route, api, tag=TAG)
    add_index = functools.partial(add, "/v2/repository/index", index, summary="The models of this service")
    body = {JSON_TYPE: IndexRequest.model_json_schema()}
    add_index(answer=Index, responses=protocol_refusals(400, 401), body=body)
    add_index(answer=Index, responses=protocol_refusals(401))
    for path in ("/v2/models/stats", "/v2/models/{name}/stats", "/v2/models/{name}/versions/{version}/stats"):
        refusals = protocol_refusals(401, 404) if "{" in path else protocol_refusals(401)
        add(path, statistics, summary="What the models have done", answer=StatisticsResponse, responses=refusals)
