"""Bearer tokens in a file: any line of it opens the door, and the file can change while the service runs."""

from __future__ import annotations

import hmac
import logging
import os
import stat
from pathlib import Path

from yt8m_ray.local_files import read_document

logger = logging.getLogger("ray.serve.yt8m")

_SCHEME = "bearer "


class TokenFile:
    """The tokens of a file, one a line of printable ASCII; empty lines and lines that begin with # count nothing.

    Args:
        path: The file; None stands for no tokens.

    Raises:
        ValueError, OSError: the file cannot be read, or has no token.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._stamp: tuple[int, ...] = ()
        self._complaint = ""
        self._tokens: list[bytes] = []
        if self._path is not None:
            self._read(self._path)

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
        complaint = ""
        try:
            if _stamp(os.stat(self._path)) != self._stamp:
                self._read(self._path)
        except (ValueError, OSError) as error:
            complaint = str(error)
        if complaint and complaint != self._complaint:  # once, and not with each request
            logger.error("%s; the tokens stay as they were", complaint)
        self._complaint = complaint

    def _read(self, path: Path) -> None:
        status = os.stat(path)  # before the file is read: a change in between is found by the next request
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
