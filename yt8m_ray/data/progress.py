"""The progress of work on bytes: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

_LINE_INTERVAL_S = 10.0


def byte_bar(logger: logging.Logger, line: str, *, total: float | None = None, leave: bool = True) -> tqdm[Any]:
    """Returns tqdm's bar of bytes; `line` is its format as a line of the log."""

    def write(text: str) -> None:
        # tqdm also writes what moves a cursor.
        if state := text.strip():
            logger.info("%s", state)

    options: dict[str, Any] = {"file": sys.stderr, "leave": leave}
    if not sys.stderr.isatty():
        options = {"file": SimpleNamespace(write=write), "leave": False, "bar_format": line}
        # Without the delay a first line would say that nothing is done. Without smoothing the rate is the mean since
        # the start: lines come too seldom for a recent one.
        options |= {"mininterval": _LINE_INTERVAL_S, "delay": _LINE_INTERVAL_S, "miniters": 0, "smoothing": 0}
    bar: tqdm[Any] = tqdm(total=total, unit="B", unit_scale=True, **options)
    return bar
