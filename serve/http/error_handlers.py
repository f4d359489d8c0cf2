"""The answers to requests that fail."""

from __future__ import annotations

import logging
import uuid

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from serve.errors import CODES, RequestError

logger = logging.getLogger(__name__)

SENDS_ID = "yt8m_sends_id"  # key of a request's scope: whether answers get the header x-request-id here


def request_id(request: Request) -> str:
    """Returns the request's id, which a proxy or `serve.http.access_log` has set, or a new one."""
    return request.headers.get("x-request-id") or str(uuid.uuid4())


def error_detail(request: Request, status: int, message: str) -> dict[str, str]:
    return {"code": CODES[status], "message": message, "request_id": request_id(request)}


def error_response(
    request: Request, status: int, message: str, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Returns the answer to a request that fails, in the form of the protocol that its path belongs to."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", "").rstrip("/"))
    if f"{path}/".startswith(("/v2/", "/v1/models/")):  # Open Inference, KServe V1 and TensorFlow Serving
        # Those protocols have no 422: what a client can correct is 400.
        return JSONResponse({"error": message}, status_code=400 if status == 422 else status, headers=headers)
    return JSONResponse({"error": error_detail(request, status, message)}, status_code=status, headers=headers)


def add_error_handlers(api: FastAPI) -> None:
    """Makes `api` answer every error in one JSON shape."""

    @api.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        return error_response(request, error.status, error.message, headers=error.headers)

    @api.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, _: ClientDisconnect) -> JSONResponse:
        return error_response(request, 400, "the connection was closed before the whole body arrived")

    @api.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        place = f"{request.method} {request.url.path[:200]}"
        status = error.status_code if error.status_code in CODES else 404
        if status != 405:
            message = f"{place}: nothing here; GET /docs lists what there is"
            return error_response(request, status, message, headers=dict(error.headers or {}))
        methods = _methods_at(request)
        allowed = {"allow": ", ".join(methods)}
        return error_response(request, 405, f"{place}: expected {' or '.join(methods)} here", headers=allowed)

    @api.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        logger.error("request %s failed", request_id(request), exc_info=error)
        # This handler is outside of `serve.http.access_log`, which gives all other answers their id.
        headers = {"x-request-id": request_id(request)} if request.scope.get(SENDS_ID) else None
        message = "the server failed; its log has the details under this request id"
        return error_response(request, 500, message, headers=headers)


def _methods_at(request: Request) -> list[str]:
    # Over all routes of the path: Starlette's own `allow` names those of one alone.
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE:
            methods |= route.methods or set()
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)
