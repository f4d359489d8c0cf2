"""Routes whose functions read their requests themselves; FastAPI only documents them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from serve.http.schemas import Responses

Handler = Callable[[Request], Awaitable[Response]]


class PlainRoute(APIRoute):
    """A route that FastAPI adds nothing to: no parsing of the body, no dependencies, no error handlers of its own."""

    # It takes half the CPU time: 65 us in place of 134 for a request with a body of 300 frames (FastAPI 0.163,
    # `python -m benchmarks.service.plain_routes`).

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def add_plain_route(
    api: FastAPI,
    path: str,
    handler: Handler,
    *,
    summary: str,
    answer: type[pydantic.BaseModel] | None = None,
    responses: Responses | None = None,
    parameters: Iterable[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
    tag: str | None = None,
    **options: Any,
) -> None:
    """Adds a route for GET, or for POST if it has a body, whose schemas `body` has by content type.

    `parameters` come besides those of the path; all else is as FastAPI takes it, for the OpenAPI document.
    """
    # Not arguments of the handler: FastAPI would document a 422 that no text of a path leads to.
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)", path)
    ]
    extra: dict[str, Any] = {"parameters": [*named, *parameters]}
    if body is not None:
        content = {content_type: {"schema": schema} for content_type, schema in body.items()}
        extra["requestBody"] = {"required": True, "content": content}
    api.router.add_api_route(
        path,
        handler,
        route_class_override=PlainRoute,
        methods=["GET" if body is None else "POST"],
        summary=summary,
        response_model=answer,
        responses=responses,
        openapi_extra=extra,
        tags=None if tag is None else [tag],
        **options,
    )
