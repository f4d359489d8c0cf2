"""What a run measured, line by line in `metrics.jsonl` of its folder: the source of MLflow's curves, bar and report."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import regular_only

logger = logging.getLogger(__name__)

HISTORY_FILE = "metrics.jsonl"

_BYTES_A_READ = 1 << 18


@dataclass(frozen=True)
class Entry:
    """One line: finite metrics at a step."""

    time_ms: int  # since 1970
    step: int
    metrics: dict[str, float]
    progress: dict[str, float] = field(default_factory=dict)  # for the bar; empty where it has not changed


class History:
    """The history in a run's folder, to append to."""

    def __init__(self, run_path: Path) -> None:
        self._path = run_path / HISTORY_FILE
        self._num_lost = 0

    def append(self, metrics: Mapping[str, float], step: int, progress: Mapping[str, float] | None = None) -> None:
        """Adds the finite values; on a full disk it logs one warning, and the run goes on."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        entry = Entry(int(time.time() * 1000), step, finite, dict(progress or {}))
        # A line that a crash or a full disk cut short is ended first; readers pass over it.
        line = "\n" * (self._num_lost > 0 or not self._is_whole()) + json.dumps(vars(entry)) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            if not self._num_lost:
                logger.warning("the curves of this run have a hole: %s: %s", self._path, error)
            self._num_lost += 1
        else:
            self._num_lost = 0

    def _is_whole(self) -> bool:
        try:
            with self._path.open("rb") as file:
                return not file.seek(0, 2) or (file.seek(-1, 2) >= 0 and file.read(1) == b"\n")
        except OSError:
            return True


def read_history(run_path: Path, offset: int = 0) -> tuple[list[Entry], int]:
    """Returns (some entries from byte `offset` on, the byte after them); none where there are no more."""
    path = run_path / HISTORY_FILE
    entries: list[Entry] = []
    if not path.exists():
        return entries, offset
    with open(path, "rb", opener=regular_only) as file:
        file.seek(offset)
        # A bounded number of bytes at once: a long history is never in memory as a whole.
        while not entries and (lines := file.readlines(_BYTES_A_READ)):
            if not lines[-1].endswith(b"\n"):  # it is being written
                lines.pop()
            if not lines:
                break
            offset += sum(map(len, lines))
            entries = [entry for line in lines if (entry := _parse(line)) is not None]
    return entries, offset


def read_curves(run_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns (steps, values) of each metric; of steps that were taken again after a restart, the later values."""
    curves: dict[str, dict[int, float]] = {}
    offset, last_step = 0, 0
    while True:
        entries, offset = read_history(run_path, offset)
        if not entries:
            return {
                name: (np.array(list(points), np.int64), np.array(list(points.values())))
                for name, points in curves.items()
                if points
            }
        for entry in entries:
            if entry.step < last_step:
                for points in curves.values():
                    for step in [step for step in points if step > entry.step]:
                        del points[step]
            last_step = entry.step
            for name, value in entry.metrics.items():
                curves.setdefault(name, {})[entry.step] = value


def _parse(line: bytes) -> Entry | None:
    try:
        return Entry(**parse_json(line, where=HISTORY_FILE))
    except (ValueError, TypeError):
        return None
