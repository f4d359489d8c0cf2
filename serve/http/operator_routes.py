"""Routes for operators: changes of releases, health, metrics, and the model card."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from serve.errors import RequestError
from serve.http.requests import read_json
from serve.http.schemas import JSON_TYPE, Change, Health, refusals
from serve.http.service import Service
from serve.model.card import ModelCards, card_of
from serve.operations import changes

# Of a change's body, which is read in the event loop.
_MAX_CHANGE_BYTES = 65536


def add_admin_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes that change releases, if the service has tokens of operators."""
    if not service.admin_tokens.is_set:
        return
    responses = refusals(400, 401, 404, 409, 422)
    described = {"requestBody": {"content": {JSON_TYPE: {"schema": Change.model_json_schema()}}}}

    @api.get("/v1/admin/releases", summary="Which models answer", responses=responses)
    async def releases(request: Request) -> JSONResponse:
        service.admin_tokens.check(request)
        return JSONResponse(await service.status())

    for what in ("promote", "canary", "rollback"):

        async def change(request: Request, what: str = what) -> JSONResponse:
            service.admin_tokens.check(request)
            asked = await read_json(request, service, Change, max_bytes=_MAX_CHANGE_BYTES)
            return JSONResponse(await service.change(_change(what, asked)))

        api.add_api_route(
            f"/v1/admin/{what}", change, methods=["POST"], responses=responses, openapi_extra=described, name=what
        )


def _change(what: str, asked: Change) -> changes.Change:
    if what == "canary":
        if asked.model is not None and asked.share == 0:
            raise RequestError(422, "share: a canary answers more than 0 of the requests")
        return changes.Canary(asked.model, asked.share)
    if "share" in asked.model_fields_set:
        raise RequestError(422, f"share: {what} takes none")
    if what == "promote":
        return changes.Promote(asked.model)
    if asked.model is not None:
        raise RequestError(422, "model: a rollback goes back to the model before, found a name")
    return changes.Rollback()


def add_operation_routes(api: FastAPI, service: Service) -> None:
    # Neither needs a token: probes and scrapers have none.

    @api.get(
        "/healthz",
        summary="Whether this replica answers, and with which model",
        response_model=Health,
        responses=refusals(503, model=Health),
    )
    async def healthz() -> JSONResponse:
        is_ready = service.is_ready()
        health = {"status": "ok" if is_ready else "not_ready", "model_version": service.host.current.version}
        return JSONResponse(health, status_code=200 if is_ready else 503)

    @api.get("/metrics", summary="Numbers of all replicas, as Prometheus reads them", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await service.exposition(), media_type="text/plain; version=0.0.4")


def add_model_routes(api: FastAPI, service: Service) -> None:
    @api.get("/v1/model", summary="What the model is and how well it did", responses=refusals(401))
    async def model(request: Request) -> ModelCards:
        service.client_tokens.check(request)
        host = service.host
        return ModelCards(
            name=service.args.name,
            current=card_of(host.current),
            canary=None if host.canary is None else card_of(host.canary),
            canary_share=0.0 if host.canary is None else host.canary_share,
        )
