"""The progress of a download."""

from __future__ import annotations

import contextlib
import logging
import threading

from yt8m_ray.data.progress import progress_bar

logger = logging.getLogger(__name__)

_LINE = "{desc}, {n_fmt}B of about {total_fmt}B, {rate_noinv_fmt}, ETA {remaining}"


class Progress:
    """Counts files and bytes, from any number of threads.

    Attributes:
        num_received: Bytes that came over the network.
    """

    def __init__(self, num_files: int) -> None:
        self.num_received = 0
        self._num_files, self._num_finished = num_files, 0
        # Bytes that are here, and the size, of each file that has begun.
        self._files: dict[str, tuple[int, int]] = {}
        self._known_bytes = 0
        self._lock = threading.Lock()
        self._open = contextlib.ExitStack()
        self._bar = self._open.enter_context(progress_bar(logger, _LINE, leave=False))

    def report(self, name: str, num_bytes: int, size: int | None) -> None:
        """Notes that `num_bytes` of a file are here; fewer than before where it was started again."""
        with self._lock:
            here, known = self._files.get(name, (0, 0))
            change, total = num_bytes - here, num_bytes if size is None else size
            # What is here at first was received by an earlier call.
            if name in self._files:
                self.num_received += max(change, 0)
            self._files[name] = num_bytes, total
            self._known_bytes += total - known
            self._show(change)

    def finish_file(self) -> None:
        """Notes that one more file has succeeded or failed."""
        with self._lock:
            self._num_finished += 1
            self._show(0)

    def close(self) -> None:
        """Removes the bar."""
        self._open.close()

    def _show(self, change: int) -> None:
        # Files that have not begun are estimated to be as large as the others on average.
        self._bar.total = self._known_bytes * self._num_files / max(len(self._files), 1)
        # tqdm's rate is (n - initial) / elapsed.
        self._bar.initial = self._bar.n + change - self.num_received
        self._bar.set_description_str(f"{self._num_finished}/{self._num_files} files", refresh=False)
        self._bar.update(change)
