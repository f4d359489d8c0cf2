"""What all routes do with a request before its body means anything: tokens, deadlines, query, body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from serve.access import note_stage
from serve.errors import RequestError
from serve.service import Service

DEADLINE_HEADER = "x-request-timeout-seconds"
"""Seconds that a client waits; Ray Serve's proxy reads the same header."""

CLOSE = {"connection": "close"}
"""Of an answer that comes before the body is through: otherwise the server would read the rest of it."""


class PlainRoute(APIRoute):
    """A route whose function takes a request and returns a response: FastAPI documents it and does nothing else.

    Its errors are answered by the handlers of the application, which stand around all routes.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def check_token(request: Request, service: Service) -> None:
    """Checks that a client may ask; RequestError 401 says what was missing."""
    tokens = service.client_tokens
    if tokens.is_set and not tokens.accepts(request.headers.get("authorization", "")):
        challenge = {"www-authenticate": "Bearer"}
        raise RequestError(401, "authorization: expected Bearer and a token of this service", headers=challenge)


def deadline_of(request: Request, service: Service) -> float:
    """Returns when the answer is due, on the clock of the event loop."""
    return asyncio.get_running_loop().time() + seconds_for(request, service)


def seconds_for(request: Request, service: Service) -> float:
    """Returns what the answer may take: what the client asks for, and no more than the limit."""
    seconds = service.limits.deadline_s
    given = request.headers.get(DEADLINE_HEADER)
    if given is not None:
        try:
            asked = float(given)
        except ValueError:
            asked = -1.0
        if not 0 < asked < float("inf"):
            raise RequestError(422, f"{DEADLINE_HEADER}: expected a positive number of seconds, found {given[:60]!r}")
        seconds = min(seconds, asked)
    return seconds


def query_parameters(request: Request, names: Iterable[str]) -> Mapping[str, str]:
    """Returns the query's parameters, each of which is known and given once."""
    known, found = tuple(names), dict[str, str]()
    for key, value in request.query_params.multi_items():
        if key not in known:
            raise RequestError(422, f"query: unknown parameter {key[:60]!r}; valid: {', '.join(known)}")
        if key in found:
            raise RequestError(422, f"query: {key} is given more than once")
        found[key] = value
    return found


def check_encoding(request: Request) -> None:
    """Checks that the body is sent as it is."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError(400, f"content-encoding: expected none, found {encoding[:100]!r}")


def check_announced(request: Request, max_bytes: int) -> None:
    """Checks the size that the body is said to have, where it is said."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:18]) > max_bytes:
        raise RequestError(413, f"body: at most {max_bytes} bytes, found {told[:18]}", headers=CLOSE)


async def read_body(request: Request, service: Service) -> bytes:
    """Returns the body, and refuses one that says or turns out to be too large, or is too slow, without holding it."""
    limits = service.limits
    check_announced(request, limits.max_body_bytes)
    started = time.perf_counter()
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                parts.append(chunk)
                size += len(chunk)
                if size > limits.max_body_bytes:
                    raise RequestError(413, f"body: at most {limits.max_body_bytes} bytes, found more", headers=CLOSE)
    except TimeoutError:
        message = f"body: expected all of it within {limits.body_timeout_s:g} s, found {size} bytes until then"
        raise RequestError(408, message, headers=CLOSE) from None
    note_stage(request, "body", time.perf_counter() - started)
    return parts[0] if len(parts) == 1 else b"".join(parts)
