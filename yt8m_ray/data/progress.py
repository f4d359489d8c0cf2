"""How far a download of many files is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

_LINE_INTERVAL_S = 10.0


class Progress:
    """Counts files and bytes; the bytes of files that have not begun are estimated from those that have.

    Args:
        num_files: How many there are to fetch.
    """

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def num_received(self) -> int:
        """Bytes that came over the network."""
        return self._num_received

    def report(self, name: str, num_bytes: int, size: int | None) -> None:
        """Says that `num_bytes` of a file are here; fewer than before where it began anew."""
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
        """Says that one more file has succeeded or failed."""
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
