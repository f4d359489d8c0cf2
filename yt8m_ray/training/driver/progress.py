"""The progress of a run: one live bar on a terminal, the workers' lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from yt8m_ray.tracking.history import HISTORY_FILE, read_history

_PARTS = 1000  # of an epoch that the bar tells apart
_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar:12}| {unit}"
_PROGRESS_LINE = re.compile(r"epoch \d+/\d+ +\d+%  step \d+  loss ")


def describe(metrics: Mapping[str, float], step: int, far: Mapping[str, float]) -> str:
    """Returns the line of an interval; `far` has num_epochs, epochs (done, with a fraction) and left_s."""
    epoch, done = _epoch(far)
    where = f"epoch {epoch}/{far['num_epochs']:.0f} {100 * done:3.0f}%  step {step}"
    return f"{where}  {_figures(metrics)}  ETA {_clock(far['left_s'])}"


def is_progress_line(line: str) -> bool:
    """Returns whether a line is one of `describe`, whose place a bar takes."""
    return _PROGRESS_LINE.match(line) is not None


class ProgressBar:
    """One line at the foot of a terminal, from the history in a run's folder."""

    def __init__(self, run_path: Path, terminal: TextIO) -> None:
        self._run_path = run_path
        path = run_path / HISTORY_FILE
        self._offset = path.stat().st_size if path.exists() else 0
        self._gap = ""
        self._bar: tqdm[Any] | None = None
        self._terminal = terminal

    def update(self) -> None:
        """Draws what was added to the history."""
        entries, self._offset = read_history(self._run_path, self._offset)
        for entry in entries:
            if "validation/gap" in entry.metrics:
                self._gap = f"  validation GAP {entry.metrics['validation/gap']:.4f}"
            if entry.progress:
                self._draw(entry.metrics, entry.step, entry.progress)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self, metrics: Mapping[str, float], step: int, far: Mapping[str, float]) -> None:
        if self._bar is None:
            # With a delay it is not drawn empty first.
            self._bar = tqdm(file=self._terminal, bar_format=_BAR_FORMAT, leave=False, dynamic_ncols=True, delay=0.1)
        epoch, _ = _epoch(far)
        self._bar.total = int(far["num_epochs"] * _PARTS)
        self._bar.n = min(int(far["epochs"] * _PARTS), self._bar.total)
        self._bar.set_description_str(f"epoch {epoch}/{far['num_epochs']:.0f}  step {step}", refresh=False)
        # What matters least comes last: a narrow terminal cuts it off.
        self._bar.unit = f"ETA {_clock(far['left_s'])}  {_figures(metrics)}{self._gap}"
        self._bar.refresh()


@contextlib.contextmanager
def progress_bar(run_path: Path) -> Iterator[ProgressBar | None]:
    """Yields a bar where stderr is a terminal, above which log lines go on; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    with logging_redirect_tqdm(), contextlib.closing(ProgressBar(run_path, sys.stderr)) as bar:
        for handler in logging.root.handlers:
            handler.addFilter(_is_no_progress_line)
        try:
            yield bar
        finally:
            for handler in logging.root.handlers:
                handler.removeFilter(_is_no_progress_line)


def _is_no_progress_line(record: logging.LogRecord) -> bool:
    return not is_progress_line(record.getMessage())


def _epoch(far: Mapping[str, float]) -> tuple[int, float]:
    """Returns (number of the epoch, from 1, and how much of it is done); at its end it is still that epoch."""
    whole = int(far["epochs"])
    if whole and far["epochs"] == whole:
        return whole, 1.0
    return whole + 1, far["epochs"] - whole


def _figures(metrics: Mapping[str, float]) -> str:
    gap = f"GAP {metrics['train/gap']:.4f}  " if "train/gap" in metrics else ""
    return (
        f"loss {metrics['train/loss']:.4f}  {gap}{metrics['train/videos_per_s']:.0f} videos/s  "
        f"input wait {100 * metrics['train/input_wait_fraction']:.0f}%"
    )


def _clock(seconds: float) -> str:
    minutes, left = divmod(int(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}" if minutes >= 60 else f"{minutes}:{left:02d}"
