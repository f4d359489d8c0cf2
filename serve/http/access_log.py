"""A line of JSON and a count for each request, answered or not."""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
import time
import uuid
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import CODES
from serve.http.error_handlers import SENDS_ID
from serve.http.service import Service
from serve.model.label_json import dump

logger = logging.getLogger("ray.serve.yt8m.access")

# Keys of a request's scope.
NOTES = "yt8m_notes"  # fields that routes add to the line: model version, videos
HAS_LEFT = "yt8m_has_left"  # set by a route whose client disconnected after the answer began
_STAGE_SECONDS = "yt8m_stage_seconds"  # pairs of a stage and its seconds, which are counted after the answer is sent

MODEL = "model"  # key of the notes: the version of the model that was chosen for a request

_ROTATED_BYTES = 64 * 2**20
_NUM_ROTATED = 4


class AccessLog:
    """ASGI middleware that gives each request an id, counts it and logs it; see `build_api` for `sends_ids`."""

    def __init__(self, app: ASGIApp, service: Service, *, sends_ids: bool = True) -> None:
        self._app = app
        self._service = service
        self._sends_ids = sends_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, method = time.perf_counter(), 500, scope["method"]
        # HEAD is answered as GET without the body: FastAPI's routes for GET do not take it.
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        request_id = _give_id(scope)
        scope[NOTES], scope[SENDS_ID], scope[_STAGE_SECONDS] = {}, self._sends_ids, []

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._sends_ids:
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        self._service.metrics.begin_request()
        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            # Ray Serve cancels the request of a client that has disconnected.
            status = 499
            raise
        except BaseException:
            # Even if an answer had begun with another status.
            status = 500
            raise
        finally:
            status = 499 if HAS_LEFT in scope else status
            self._observe(scope, method, request_id, status, time.perf_counter() - started)

    def _observe(self, scope: Scope, method: str, request_id: str, status: int, seconds: float) -> None:
        # The route and not the path, of which there are endlessly many: each would be a series of its own.
        route = getattr(scope.get("route"), "path", "none")
        metrics = self._service.metrics
        metrics.observe_request(route, status, seconds, CODES.get(status))
        stages = scope[_STAGE_SECONDS]
        for stage, stage_seconds in stages:
            metrics.observe_stage(stage, stage_seconds)
        if MODEL in scope[NOTES]:
            metrics.statistics.observe_request(scope[NOTES][MODEL], seconds, stages, is_success=status < 400)
        line = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1e3, 2),
        }
        logger.info(dump(line | scope[NOTES]))


def note_model(request: Request, version: str) -> None:
    request.scope[NOTES][MODEL] = version


def note_stage(request: Request, stage: str, seconds: float) -> None:
    """Notes the seconds of one of the stages of `serve.operations.metrics`."""
    request.scope[_STAGE_SECONDS].append((stage, seconds))


def write_access_log(path: Path) -> None:
    """Writes the lines of this process to a file, which is rotated, in place of the log of Ray Serve."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_ROTATED_BYTES, backupCount=_NUM_ROTATED, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _give_id(scope: Scope) -> str:
    """Returns the id that a client or proxy gave, if it is safe to log, or a new one that replaces it."""
    given = [value for key, value in scope["headers"] if key == b"x-request-id"]
    if len(given) == 1 and re.fullmatch(rb"[0-9A-Za-z_.-]{1,100}", given[0]):
        return str(given[0].decode("ascii"))
    request_id = str(uuid.uuid4())
    others = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
    scope["headers"] = [*others, (b"x-request-id", request_id.encode())]
    return request_id
