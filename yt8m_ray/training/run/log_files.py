"""Log lines of other processes, through a file that they share with their driver."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

# Before each line of a log file.
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
_TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


@contextlib.contextmanager
def logging_to(path: Path, *, prefix: str) -> Iterator[None]:
    """Appends what this package logs while the `with` block runs to a file, each line with a prefix."""
    package_logger = logging.getLogger("yt8m_ray")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", TIME_FORMAT))
    package_logger.addHandler(handler)
    package_logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        # The process may be used for another fold.
        package_logger.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def lines_passed_on(path: Path) -> Iterator[None]:
    """Logs the lines that other processes add to a file while the `with` block runs."""
    path.touch()
    is_over = threading.Event()
    with path.open(encoding="utf-8") as lines:
        # Earlier commands have shown what is there.
        lines.seek(0, 2)

        def pass_on() -> None:
            was_over = False
            # Once more after the end: lines may have come since the last look.
            while not was_over:
                was_over = is_over.wait(0.5)
                for line in lines:
                    logger.info("%s", _TIME.sub("", line.rstrip()))

        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
