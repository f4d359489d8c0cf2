"""GET /v1/examples: videos to try, for the page and for a first request by hand."""

from __future__ import annotations

from typing import Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field

from serve.errors import RequestError
from serve.http.requests import check_token
from serve.http.schemas import ErrorResponse
from serve.http.service import Service
from serve.http.site.examples import Examples

BINARY_TYPE = "application/octet-stream"

_LISTED: dict[int | str, dict[str, Any]] = {401: {"model": ErrorResponse}}
_FOUND: dict[int | str, dict[str, Any]] = {
    200: {"content": {BINARY_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
    **{status: {"model": ErrorResponse} for status in (401, 404)},
}

# Not an argument of the route: FastAPI would document a 422 of its own, which no text can lead to.
_ID: dict[str, Any] = {"name": "example_id", "in": "path", "required": True, "schema": {"type": "string"}}


class ExampleEntry(pydantic.BaseModel):
    id: str
    title: str
    num_frames: int | None = Field(description="null for a video that has means alone")


class ExampleList(pydantic.BaseModel):
    is_made_up: bool = Field(description="Whether these are the inputs that the model checks itself with: noise")
    examples: list[ExampleEntry]


def add_example_routes(api: FastAPI, service: Service) -> None:
    """Adds the routes."""
    held = Examples(service.args.examples)

    @api.get("/v1/examples", summary="Videos to try", responses=_LISTED)
    async def examples(request: Request) -> ExampleList:
        check_token(request, service)
        found = await held.of(service.host.current)
        entries = [ExampleEntry(id=key, title=each.title, num_frames=each.num_frames) for key, each in found.items()]
        return ExampleList(is_made_up=service.args.examples is None, examples=entries)

    @api.get(
        "/v1/examples/{example_id}",
        summary="One of them, a serialized SequenceExample or Example",
        response_class=Response,
        responses=_FOUND,
        openapi_extra={"parameters": [_ID]},
    )
    async def example(request: Request) -> Response:
        check_token(request, service)
        example_id = request.path_params["example_id"]
        found = await held.of(service.host.current)
        if example_id not in found:
            valid = ", ".join(found) or "none"
            raise RequestError(404, f"example: {example_id[:60]!r} is not one of them; valid: {valid}")
        return Response(found[example_id].record, media_type=BINARY_TYPE)
