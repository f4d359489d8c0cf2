"""What an operator changes over HTTP: which model answers, with a token of its own."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from serve.errors import RequestError
from serve.http.requests import check_token, read_json
from serve.http.schemas import Change, ErrorResponse, Health
from serve.http.service import Service
from serve.model.card import ModelCards, card_of

_CHANGES = ("promote", "canary", "rollback")

_MOST_BYTES = 65536
"""Of the body of a change, which is read in the event loop."""


def add_admin_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes; without a file of tokens they are not there."""
    responses: dict[int | str, dict[str, Any]] = {code: {"model": ErrorResponse} for code in (400, 401, 404, 409, 422)}
    described = {"requestBody": {"content": {"application/json": {"schema": Change.model_json_schema()}}}}
    if not service.admin_tokens.is_set:
        return

    @api.get("/v1/admin/releases", summary="Which models answer", responses=responses)
    async def releases(request: Request) -> JSONResponse:
        _check_token(request, service)
        return JSONResponse(await service.status())

    for what in _CHANGES:

        async def change(request: Request, what: str = what) -> JSONResponse:
            _check_token(request, service)
            asked = await read_json(request, service, Change, max_bytes=_MOST_BYTES)
            _check_fields(what, asked)
            return JSONResponse(await service.change(what, asked.model, asked.share))

        api.add_api_route(
            f"/v1/admin/{what}", change, methods=["POST"], responses=responses, openapi_extra=described, name=what
        )


def _check_fields(what: str, asked: Change) -> None:
    if what == "canary" and asked.model is not None and asked.share == 0:
        raise RequestError(422, "share: a canary answers more than 0 of the requests")
    if what != "canary" and "share" in asked.model_fields_set:
        raise RequestError(422, f"share: {what} takes none")
    if what == "rollback" and asked.model is not None:
        raise RequestError(422, "model: a rollback goes back to the model before, found a name")


def _check_token(request: Request, service: Service) -> None:
    if not service.admin_tokens.accepts(request.headers.get("authorization", "")):
        challenge = {"www-authenticate": "Bearer"}
        raise RequestError(401, "authorization: expected Bearer and a token of an operator", headers=challenge)


def add_operation_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes."""

    @api.get(
        "/healthz",
        summary="Whether this replica answers, and with which model",
        response_model=Health,
        responses={503: {"model": Health}},
    )
    async def healthz() -> JSONResponse:
        is_ready = service.is_ready()
        health = {"status": "ok" if is_ready else "not_ready", "model_version": service.host.current.version}
        return JSONResponse(health, status_code=200 if is_ready else 503)

    @api.get("/metrics", summary="Numbers of all replicas, as Prometheus reads them", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await service.exposition(), media_type="text/plain; version=0.0.4")


_RESPONSES: dict[int | str, dict[str, Any]] = {401: {"model": ErrorResponse}}


def add_model_routes(api: FastAPI, service: Service) -> None:
    """Adds the route."""

    @api.get("/v1/model", summary="What the model is and how well it did", responses=_RESPONSES)
    async def model(request: Request) -> ModelCards:
        check_token(request, service)
        host = service.host
        canary = host.canary
        return ModelCards(
            name=service.args.name,
            current=card_of(host.current),
            canary=None if canary is None else card_of(canary),
            canary_share=0.0 if canary is None else host.canary_share,
        )
