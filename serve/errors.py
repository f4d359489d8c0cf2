"""Errors that a client gets: one JSON shape, one sentence, no internals of the server."""

from __future__ import annotations

CODES = {
    400: "malformed_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    409: "refused",
    413: "body_too_large",
    415: "unsupported_media_type",
    421: "misdirected_request",
    422: "invalid_request",
    499: "client_went_away",
    500: "internal_error",
    503: "overloaded",
    504: "deadline_exceeded",
}

# For an answer that is sent before the whole body has arrived: without it the server would read the rest.
CLOSE = {"connection": "close"}


class RequestError(Exception):
    """A request that the client has to change: a status of CODES, and one sentence (where, expected, found)."""

    def __init__(self, status: int, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class OverloadedError(RequestError):
    """A valid request for which there is no room now; the client can retry it."""

    def __init__(self, message: str, *, retry_after_s: int, headers: dict[str, str] | None = None) -> None:
        all_headers = {"retry-after": str(retry_after_s), **(headers or {})}
        super().__init__(503, f"{message}; retry in {retry_after_s} s", headers=all_headers)
