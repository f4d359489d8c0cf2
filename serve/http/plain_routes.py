"""Routes that read their requests themselves: FastAPI documents them and does nothing else."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class ProtocolError(pydantic.BaseModel):
    """An error as the inference protocols of others have it."""

    error: str


class PlainRoute(APIRoute):
    """A route whose function takes a request and returns a response.

    Its errors are answered by the handlers of the application, which stand around all routes.
    """

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def add_protocol_route(
    api: FastAPI,
    path: str,
    handler: Handler,
    *,
    summary: str,
    tag: str,
    answer: type[pydantic.BaseModel] | None = None,
    statuses: Iterable[int] = (),
    parameters: Iterable[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
    binary_answer: bool = False,
) -> None:
    """Adds a route of an inference protocol.

    Args:
        api: Where.
        path: With the names of its parameters, each a text.
        handler: Answers.
        summary, tag: For the OpenAPI document, as all that follows.
        answer: Type of the answer.
        statuses: Of refusals.
        parameters: Beside those of the path.
        body: Schemas of the body by its content types; with some, the method is POST.
        binary_answer: Whether the answer may be bytes too.
    """
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)", path)
    ]
    extra: dict[str, Any] = {"parameters": [*named, *parameters]}
    responses: dict[int | str, dict[str, Any]] = {status: {"model": ProtocolError} for status in statuses}
    if body is not None:
        content = {content_type: {"schema": schema} for content_type, schema in body.items()}
        extra["requestBody"] = {"required": True, "content": content}
    if binary_answer:
        binary = {"schema": {"type": "string", "format": "binary"}}
        responses[200] = {"content": {"application/octet-stream": binary}}
    api.router.add_api_route(
        path,
        handler,
        route_class_override=PlainRoute,
        methods=["GET" if body is None else "POST"],
        summary=summary,
        response_model=answer,
        responses=responses,
        openapi_extra=extra,
        tags=[tag],
    )
