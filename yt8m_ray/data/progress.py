"""The progress of long work: a bar on a terminal, and a line of the log every ten seconds elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

LINE_INTERVAL_S = 10.0
_BAR_INTERVAL_S = 1.0


@contextlib.contextmanager
def progress_bar(
    logger: logging.Logger, line: str, *, total: float | None = None, unit: str = "B", leave: bool = True
) -> Iterator[tqdm[Any]]:
    """Gives tqdm's bar of bytes, or of another unit; `line` is its format as a line of the log.

    A line comes, and a bar is drawn, also while nothing moves.
    """

    def write(text: str) -> None:
        # tqdm also writes what moves a cursor.
        if state := text.strip():
            logger.info("%s", state)

    options: dict[str, Any] = {"file": sys.stderr, "leave": leave}
    if not sys.stderr.isatty():
        # Lines come by `refresh` below alone. Without smoothing the rate is the mean since the start: they come too
        # seldom for a recent one. With a delay there is no first line, that nothing is done.
        options = {"file": SimpleNamespace(write=write), "leave": False, "bar_format": line}
        options |= {"mininterval": float("inf"), "delay": LINE_INTERVAL_S / 2, "smoothing": 0}
    interval_s = _BAR_INTERVAL_S if sys.stderr.isatty() else LINE_INTERVAL_S
    with tqdm(total=total, unit=unit, unit_scale=True, **options) as bar, _repeating(bar.refresh, interval_s):
        yield bar


@contextlib.contextmanager
def at_work(logger: logging.Logger, what: str) -> Iterator[None]:
    """Logs, every ten seconds of the `with` block, that work goes on, and since when."""
    started = time.monotonic()
    with _repeating(lambda: logger.info("%s, %.0f s so far", what, time.monotonic() - started), LINE_INTERVAL_S):
        yield


@contextlib.contextmanager
def _repeating(call: Callable[[], object], interval_s: float) -> Iterator[None]:
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(interval_s):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
