"""What a client is told when a request cannot be answered: one JSON shape, one sentence, never an internal."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

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

CLOSE = {"connection": "close"}
"""Of an answer that comes before the body is through: otherwise the server would read the rest of it."""


class RequestError(Exception):
    """A request that is the client's to change.

    Attributes:
        status: The HTTP status, one of CODES.
        message: One sentence: where, what was expected, what was found.
        headers: Of the answer.
    """

    def __init__(self, status: int, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class OverloadedError(RequestError):
    """A request that is right, and may come again: there is no room for it now."""

    def __init__(self, message: str, *, retry_after_s: int, headers: dict[str, str] | None = None) -> None:
        told = {"retry-after": str(retry_after_s), **(headers or {})}
        super().__init__(503, f"{message}; come again in {retry_after_s} s", headers=told)
