"""Bearer tokens in a file: any line of it opens the door, and the file can change while the service runs."""

from __future__ import annotations

import hmac
import logging
import os
from pathlib import Path

logger = logging.getLogger("ray.serve")

_SCHEME = "bearer "


class TokenFile:
    """The tokens of a file, one a line; empty lines and lines that begin with # count nothing.

    Args:
        path: The file; None stands for no tokens.

    Raises:
        ValueError, OSError: the file cannot be read, or has no token.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._stamp: tuple[int, int] | None = None
        self._tokens: list[bytes] = []
        if self._path is not None:
            self._read()

    @property
    def is_set(self) -> bool:
        """Whether there is a file, so that a token is asked for."""
        return self._path is not None

    def accepts(self, authorization: str) -> bool:
        """Returns whether the value of an Authorization header carries one of the tokens.

        All tokens are compared, each in the same time however much of it is right.
        """
        self._refresh()
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given = authorization[len(_SCHEME) :].strip().encode("utf-8", "replace")
        return any([hmac.compare_digest(given, token) for token in self._tokens])  # noqa: C419 - without stopping early

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            status = os.stat(self._path)
            if (status.st_mtime_ns, status.st_ino) != self._stamp:
                self._read()
        except (ValueError, OSError) as error:
            logger.error("%s; the tokens stay as they were", error)

    def _read(self) -> None:
        assert self._path is not None
        status = os.stat(self._path)
        lines = [line.strip() for line in self._path.read_text(encoding="utf-8").splitlines()]
        tokens = [line.encode() for line in lines if line and not line.startswith("#")]
        self._stamp = (status.st_mtime_ns, status.st_ino)
        if not tokens:
            raise ValueError(f"{self._path}: expected one token a line, found none")
        self._tokens = tokens
