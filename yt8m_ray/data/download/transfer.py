"""One file over HTTP: continued where it stopped, and in place only when its md5 is right."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import requests.adapters
import urllib3.exceptions
from urllib3.util import Retry

from yt8m_ray.data.download.config import DownloadConfig
from yt8m_ray.local_files import regular_only

logger = logging.getLogger(__name__)

# Ends the name of an incomplete file.
PART_SUFFIX = ".part"

_CHUNK_BYTES = 1 << 20
_GAIN_BYTES = 1 << 20
_TRANSIENT = (429, 500, 502, 503, 504)
_BACKOFF_MAX_S = 60

# Called with the bytes of a file that are here, and its size or None, whenever that changes.
OnBytes = Callable[[int, int | None], None]


class TransferError(OSError):
    """A file, or a plan, that could not be fetched."""


class StoppedError(OSError):
    """The transfer was stopped; its part may be continued."""


class Transfer:
    """Fetches files, from any number of threads."""

    def __init__(self, config: DownloadConfig) -> None:
        self._num_attempts, self._backoff_s, self._timeout_s = config.num_attempts, config.backoff_s, config.timeout_s
        self._stop = threading.Event()
        retry = Retry(
            total=config.num_attempts - 1,
            status_forcelist=_TRANSIENT,
            allowed_methods=("GET",),
            backoff_factor=config.backoff_s,
            backoff_max=_BACKOFF_MAX_S,
            retry_after_max=_BACKOFF_MAX_S,
            # The caller reports the status that stays.
            raise_on_status=False,
        )
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=config.num_connections, max_retries=retry)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        # Ranges and md5 are those of the file itself, not of a packed body.
        self._session.headers["Accept-Encoding"] = "identity"

    def close(self) -> None:
        """Stops every thread and closes the connections."""
        self.stop()
        self._session.close()

    def stop(self) -> None:
        """Makes every thread raise StoppedError at its next chunk or pause."""
        self._stop.set()

    def read(self, url: str) -> requests.Response:
        """Returns the response to a GET, with its body, whatever its status; TransferError where there is none."""
        attempt = 1
        while True:
            with self._get(url) as response:
                try:
                    _ = response.content
                    return response
                except requests.RequestException as error:
                    if attempt >= self._num_attempts:
                        raise TransferError(f"{url}: {_reason(error)} ({attempt} attempts)") from error
            self._pause(attempt)
            attempt += 1

    def fetch(self, url: str, target: Path, md5: str, on_bytes: OnBytes) -> None:
        """Fetches `url` as the file `target`, whose md5 has to be right, continuing `target`.part where that exists.

        Raises:
            TransferError: names the file, what was expected and what was found; a part that may be continued stays.
            StoppedError: `stop` was called.
            OSError: the disk is full, or the folder cannot be written to.
        """
        part = target.with_name(target.name + PART_SUFFIX)
        attempt, furthest = 1, 0
        while True:
            try:
                found = self._complete(url, part, md5, on_bytes)
            except urllib3.exceptions.HTTPError as error:
                fault = f"{url}: {_reason(error)}"
            else:
                if found == md5:
                    os.replace(part, target)
                    return
                part.unlink(missing_ok=True)
                fault = f"{url}: expected md5 {md5}, found {found}"
            # Attempts that get further do not count: a bad line may cut a large file often. A server that ignores
            # ranges gets no further.
            size = _size(part)
            if size >= furthest + _GAIN_BYTES:
                attempt = 1
            furthest = max(furthest, size)
            if attempt >= self._num_attempts:
                raise TransferError(f"{fault} ({attempt} attempts)")
            logger.debug("%s; attempt %d", fault, attempt)
            self._pause(attempt)
            attempt += 1

    def _complete(self, url: str, part: Path, md5: str, on_bytes: OnBytes) -> str:
        """Appends what `part` lacks and returns the md5 of the whole; urllib3's HTTPError where the body is cut."""
        digest, size = _hash(part), _size(part)
        # An earlier call may have ended between the last byte and the renaming.
        if size and digest.hexdigest() == md5:
            return md5
        headers = {"Range": f"bytes={size}-"} if size else {}
        with self._get(url, headers=headers) as response:
            status = response.status_code
            if size and status == requests.codes.requested_range_not_satisfiable:
                # Nothing follows, and what is here is wrong.
                return digest.hexdigest()
            if status not in (requests.codes.ok, requests.codes.partial_content):
                raise TransferError(f"{url}: expected status 200 or 206, found {status} {response.reason}")
            is_rest = status == requests.codes.partial_content
            place = response.headers.get("Content-Range", "")
            if is_rest and not place.startswith(f"bytes {size}-"):
                part.unlink(missing_ok=True)
                raise urllib3.exceptions.ProtocolError(f"expected the bytes from {size}, found {place!r}")
            if size and not is_rest:
                digest, size = _new_md5(), 0
            length = response.headers.get("Content-Length", "")
            total = size + int(length) if length.isdigit() else None
            with open(part, "ab" if is_rest else "wb", buffering=0) as file:
                on_bytes(size, total)
                # Not iter_content: it waits for whole chunks, and loses the last one where the body is cut.
                while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
                    if self._stop.is_set():
                        raise StoppedError(f"{part}: stopped")
                    _write(file, chunk, part)
                    digest.update(chunk)
                    size += len(chunk)
                    on_bytes(size, total)
                # Before the renaming: after a power cut, too, a file with its own name is whole.
                os.fsync(file.fileno())
        return digest.hexdigest()

    def _get(self, url: str, *, headers: dict[str, str] | None = None) -> requests.Response:
        # A connection that is not there after ten seconds will not come.
        timeout = min(self._timeout_s, 10.0), self._timeout_s
        try:
            return self._session.get(url, headers=headers, stream=True, timeout=timeout)
        except requests.RequestException as error:
            raise TransferError(f"{url}: {_reason(error)} ({self._num_attempts} attempts)") from error

    def _pause(self, attempt: int) -> None:
        # As urllib3 does: none before the second attempt.
        pause_s = 0.0 if attempt == 1 else min(self._backoff_s * 2 ** (attempt - 1), _BACKOFF_MAX_S)
        if self._stop.wait(pause_s):
            raise StoppedError("stopped")


def md5_of(path: Path) -> str:
    """Returns the md5 of a file as hexadecimal digits."""
    return _hash(path).hexdigest()


def _hash(path: Path) -> hashlib._Hash:
    if not _size(path):
        return _new_md5()
    with open(path, "rb", buffering=0, opener=regular_only) as file:
        return hashlib.file_digest(file, _new_md5)


def _new_md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(file: Any, chunk: bytes, path: Path) -> None:
    # An unbuffered file may take less than it is given, and a disk that fills up does so before it refuses.
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        advice = f"{error.strerror}; make room and give the same command again"
        raise OSError(error.errno, advice, str(path)) from error


def _reason(error: BaseException) -> str:
    """Returns the system's own words inside what urllib3 and requests wrap around them."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        error, inner = inner, inner.__cause__ or inner.__context__
    return str(error)
