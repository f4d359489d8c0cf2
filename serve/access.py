"""A line of JSON and a count for each request, whatever becomes of it."""

from __future__ import annotations

import json
import logging
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.service import Service

logger = logging.getLogger("ray.serve.access")

NOTES = "yt8m_notes"
"""Key of a request's scope under which routes leave what the log shall tell: model version, videos."""


class AccessLog:
    """ASGI middleware that gives each request an id, counts it and logs it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes an HTTP request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        request_id = _request_id(scope)
        notes: dict[str, Any] = {}
        scope[NOTES] = notes

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")  # never the path as given: that has no end of values
            self._service.metrics.observe_request(route, status, seconds)
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1e3, 2),
                **notes,
            }
            logger.info(json.dumps(line))


def _request_id(scope: Scope) -> str:
    """Returns the id that a client or proxy gave, if it is a plain one, or a new one, which routes see too."""
    for key, value in scope["headers"]:
        if key == b"x-request-id" and 0 < len(value) <= 100 and value.replace(b"-", b"").isalnum():
            return str(value.decode("ascii"))
    request_id = str(uuid.uuid4())
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
    scope["headers"].append((b"x-request-id", request_id.encode()))
    return request_id
