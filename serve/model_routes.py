"""GET /v1/model: the model card."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from serve.model_card import ModelCards, card_of
from serve.requests import check_token
from serve.schemas import ErrorResponse
from serve.service import Service

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
