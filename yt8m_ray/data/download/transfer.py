"""One file over HTTP: continued where it stopped, and in place only when its md5 is right."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import requests
import requests.adapters
import urllib3.exceptions
from tqdm import tqdm
from urllib3.util import Retry

from yt8m_ray.local_files import regular_only

logger = logging.getLogger(__name__)

PART_SUFFIX = ".part"
"""What is added to the name of a file that is not whole yet."""

_CHUNK_BYTES = 1 << 20
_GAIN_BYTES = 1 << 20
_TRANSIENT = (429, 500, 502, 503, 504)
_BACKOFF_MAX_S = 60


Report = Callable[[int, int | None], None]


class TransferError(OSError):
    """A file that could not be fetched; others may well be."""


class StoppedError(OSError):
    """The transfer was told to stop; its part is whole up to where it ends."""


class Transfer:
    """Fetches files, from any number of threads.

    Args:
        num_attempts: How often a request, or a body that is cut or wrong, is tried before the file fails.
        backoff_s: The pause before the third attempt; each further one is twice as long, up to a minute.
        timeout_s: How long a server may be silent.
    """

    def __init__(self, *, num_connections: int, num_attempts: int, backoff_s: float, timeout_s: float) -> None:
        self._num_attempts = num_attempts
        self._backoff_s = backoff_s
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        retry = Retry(
            total=num_attempts - 1,
            status_forcelist=_TRANSIENT,
            allowed_methods=("GET",),
            backoff_factor=backoff_s,
            backoff_max=_BACKOFF_MAX_S,
            retry_after_max=_BACKOFF_MAX_S,
            raise_on_status=False,
        )
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=num_connections, max_retries=retry)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        self._session.headers["Accept-Encoding"] = "identity"  # ranges and md5 are those of the file itself

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._session.close()

    def stop(self) -> None:
        """Makes every thread raise StoppedError at its next chunk or pause."""
        self._stop.set()

    def read(self, url: str) -> requests.Response:
        """Returns the answer to a GET, with its body, whatever its status is.

        Raises:
            TransferError: the server cannot be reached, or its answer was cut each time.
        """
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

    def fetch(self, url: str, target: Path, md5: str, report: Report) -> None:
        """Puts the file at `url` in place as `target`, continuing `target`.part where that exists.

        Args:
            md5: What it has to have, as hexadecimal digits.
            report: Called with (bytes that are here, size or None) whenever that changes.

        Raises:
            TransferError: names the file, what was expected and what was found; a part that may be continued stays.
            StoppedError: `stop` was called.
            OSError: the disk is full, or the folder cannot be written to.
        """
        part = target.with_name(target.name + PART_SUFFIX)
        attempt, furthest = 1, 0
        while True:
            try:
                found = self._complete(url, part, md5, report)
            except urllib3.exceptions.HTTPError as error:
                fault = f"{url}: {_reason(error)}"
            else:
                if found == md5:
                    os.replace(part, target)
                    return
                part.unlink(missing_ok=True)
                fault = f"{url}: expected md5 {md5}, found {found}"
            # Attempts that get further do not count: a bad line may cut a large file often. A server that always starts
            # from the first byte gets no further than before.
            size = _size(part)
            if size >= furthest + _GAIN_BYTES:
                attempt = 1
            furthest = max(furthest, size)
            if attempt >= self._num_attempts:
                raise TransferError(f"{fault} ({attempt} attempts)")
            logger.debug("%s; attempt %d", fault, attempt)
            self._pause(attempt)
            attempt += 1

    def _complete(self, url: str, part: Path, md5: str, report: Report) -> str:
        """Appends to `part` what it lacks and returns the md5 of it all; urllib3's HTTPError where the body is cut."""
        digest, size = _hash(part), _size(part)
        if size and digest.hexdigest() == md5:  # stopped between the last byte and the renaming
            return md5
        headers = {"Range": f"bytes={size}-"} if size else {}
        with self._get(url, headers=headers) as response:
            status = response.status_code
            if size and status == requests.codes.requested_range_not_satisfiable:
                return str(digest.hexdigest())  # nothing follows, and what is here is wrong: so says its md5
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
                report(size, total)
                # Not iter_content: it waits for whole chunks, and loses the last one where the body is cut.
                while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
                    if self._stop.is_set():
                        raise StoppedError(f"{part}: stopped")
                    _write(file, chunk, part)
                    digest.update(chunk)
                    size += len(chunk)
                    report(size, total)
                os.fsync(file.fileno())
        return str(digest.hexdigest())

    def _get(self, url: str, *, headers: dict[str, str] | None = None) -> requests.Response:
        timeout = min(self._timeout_s, 10.0), self._timeout_s
        try:
            return self._session.get(url, headers=headers, stream=True, timeout=timeout)
        except requests.RequestException as error:
            raise TransferError(f"{url}: {_reason(error)} ({self._num_attempts} attempts)") from error

    def _pause(self, attempt: int) -> None:
        pause_s = 0.0 if attempt == 1 else min(self._backoff_s * 2 ** (attempt - 1), _BACKOFF_MAX_S)  # as urllib3 does
        if self._stop.wait(pause_s):
            raise StoppedError("stopped")


def md5_of(path: Path) -> str:
    """Returns the md5 of a file as hexadecimal digits."""
    return str(_hash(path).hexdigest())


def _hash(path: Path) -> Any:
    digest = _new_md5()
    if _size(path):
        with open(path, "rb", buffering=0, opener=regular_only) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest


def _new_md5() -> Any:
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


_LINE_INTERVAL_S = 10.0


class Progress:
    """Counts files and bytes; the bytes of files that have not begun are estimated from those that have."""

    def __init__(self, num_files: int) -> None:
        self._num_files = num_files
        self._num_finished = 0
        self._here: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._num_bytes = self._num_received = self._known_bytes = 0
        self._lock = threading.Lock()
        self._started_s = self._line_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(unit="B", unit_scale=True, disable=not self._is_terminal, file=sys.stderr, leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def num_received(self) -> int:
        """Bytes that came over the network."""
        return self._num_received

    def report(self, name: str, num_bytes: int, size: int | None) -> None:
        """Notes that `num_bytes` of a file are here; fewer than before where it was started again."""
        with self._lock:
            is_new = name not in self._sizes
            change = num_bytes - self._here.get(name, 0)
            self._here[name] = num_bytes
            self._known_bytes -= self._sizes.get(name, 0)
            self._sizes[name] = num_bytes if size is None else size
            self._known_bytes += self._sizes[name]
            self._num_bytes += change
            if not is_new:
                self._num_received += max(change, 0)
            self._show(change)

    def finish_file(self) -> None:
        """Notes that one more file has succeeded or failed."""
        with self._lock:
            self._num_finished += 1
            self._show(0)

    def _show(self, change: int) -> None:
        if self._is_terminal:
            self._bar.total = self._estimate()
            self._bar.set_description(f"{self._num_finished}/{self._num_files} files", refresh=False)
            self._bar.update(change)
        elif time.monotonic() - self._line_s >= _LINE_INTERVAL_S:
            self._line_s = time.monotonic()
            rate = self._num_received / (self._line_s - self._started_s)
            estimate = self._estimate()
            left = tqdm.format_interval((estimate - self._num_bytes) / rate) if rate else "?"
            logger.info(
                "%d/%d files, %sB of about %sB, %sB/s, ETA %s",
                self._num_finished,
                self._num_files,
                *(tqdm.format_sizeof(value) for value in (self._num_bytes, estimate, rate)),
                left,
            )

    def _estimate(self) -> float:
        """Returns the bytes of all files, were the unknown ones like the known."""
        return self._known_bytes * self._num_files / max(len(self._sizes), 1)
