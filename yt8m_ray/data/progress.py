"""The progress of work on bytes: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

_LINE_INTERVAL_S = 10.0


class _LogFile:
    """What tqdm writes to where there is no terminal: each state of the bar becomes a line of the log."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def write(self, text: str) -> None:
        if line := text.strip():
            self._logger.info("%s", line)

    def flush(self) -> None: ...


def byte_bar(logger: logging.Logger, line: str, *, total: float | None = None, leave: bool = True) -> tqdm[Any]:
    """Returns tqdm's bar of bytes; `line` is its format as a line of the log."""
    options: dict[str, Any] = {"file": sys.stderr, "leave": leave}
    if not sys.stderr.isatty():
        options = {"file": _LogFile(logger), "leave": False, "bar_format": line, "mininterval": _LINE_INTERVAL_S}
        # Without the delay a first line would say that nothing is done. The rate is the mean since the start: lines
        # come too seldom to smooth it.
        options |= {"delay": _LINE_INTERVAL_S, "miniters": 0, "smoothing": 0}
    bar: tqdm[Any] = tqdm(total=total, unit="B", unit_scale=True, **options)
    return bar
