"""A long call beside the main thread, and the lines that others add to a log file meanwhile."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from yt8m_ray.training.progress import is_progress_line, progress_bar

logger = logging.getLogger(__name__)

T = TypeVar("T")


def follow(call: Callable[[], T], log_path: Path) -> T:
    """Runs `call` beside the main thread and returns what it does; lines added to `log_path` meanwhile are logged.

    On a terminal a bar stands for the lines that tell how far the run is.

    The main thread stays free for Ctrl-C; Ray's own handler, set where `fit` runs in it, would end with status 0.
    """
    results: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failure.append(error)

    log_path.touch()
    thread = threading.Thread(target=run, daemon=True)
    with log_path.open(encoding="utf-8") as lines, progress_bar(log_path.parent) as bar:
        lines.seek(0, os.SEEK_END)
        thread.start()
        while thread.is_alive():
            thread.join(timeout=0.2)
            for line in lines:
                if bar is None or not is_progress_line(line):
                    logger.info("%s", line.rstrip())
            if bar is not None:
                bar.update()
    if failure:
        raise failure[0]
    return results[0]
