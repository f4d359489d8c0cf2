"""What probes and monitoring ask: health, numbers, and what the model is."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse

from serve.schemas import Health
from serve.service import Service


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
