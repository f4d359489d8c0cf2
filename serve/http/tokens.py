"""Bearer tokens in a file, which can change while the service runs."""

from __future__ import annotations

import hmac
import logging
import os
import stat
from pathlib import Path

from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import Request

from serve.errors import RequestError
from yt8m_ray.local_files import read_document

logger = logging.getLogger("ray.serve.yt8m")


class TokenFile:
    """The tokens of a file, one a line of printable ASCII; empty lines and lines that begin with # are ignored.

    Without a path no token is asked for. ValueError or OSError if the file cannot be read or has no token; `role` says
    in errors whose tokens they are.
    """

    def __init__(self, path: str | None, *, role: str = "this service") -> None:
        self._path = None if path is None else Path(path)
        self._role = role
        self._stamp: tuple[int, ...] = ()
        self._last_error = ""
        self._tokens: list[bytes] = []
        if self._path is not None:
            self._read(self._path)

    @property
    def is_set(self) -> bool:
        return self._path is not None

    def check(self, request: Request) -> None:
        """Raises RequestError 401 unless a request carries one of the tokens, or none is asked for."""
        if self.is_set and not self.accepts(request.headers.get("authorization", "")):
            challenge = {"www-authenticate": "Bearer"}
            raise RequestError(401, f"authorization: expected Bearer and a token of {self._role}", headers=challenge)

    def accepts(self, authorization: str) -> bool:
        """Returns whether the value of an Authorization header carries one of the tokens."""
        self._refresh()
        scheme, token = get_authorization_scheme_param(authorization)
        if scheme.lower() != "bearer":
            return False
        given = token.strip().encode("utf-8", "replace")
        # All tokens, each in constant time: a client must not learn from the time how much of one was right.
        return any([hmac.compare_digest(given, each) for each in self._tokens])  # noqa: C419

    def _refresh(self) -> None:
        if self._path is None:
            return
        error_text = ""
        try:
            if _stamp(os.stat(self._path)) != self._stamp:
                self._read(self._path)
        except (ValueError, OSError) as error:
            error_text = str(error)
        # Once, and not with each request.
        if error_text and error_text != self._last_error:
            logger.error("%s; the tokens stay as they were", error_text)
        self._last_error = error_text

    def _read(self, path: Path) -> None:
        # Before the file is read: the next request sees a change in between.
        status = os.stat(path)
        try:
            lines = [line.strip() for line in read_document(path).decode("ascii").splitlines()]
        except UnicodeDecodeError:
            raise ValueError(f"{path}: expected tokens of printable ASCII") from None
        tokens = [line.encode() for line in lines if line and not line.startswith("#")]
        if not tokens:
            raise ValueError(f"{path}: expected one token a line, found none")
        if status.st_mode & stat.S_IRWXO:
            logger.warning("%s: anybody on this machine can read the tokens; chmod o= would close it", path)
        logger.info("%s: %d tokens", path, len(tokens))
        self._stamp, self._tokens = _stamp(status), tokens


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ino, status.st_size
