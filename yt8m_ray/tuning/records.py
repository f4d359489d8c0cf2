"""The records of a search's trials, from which tables, reports and the winner come, and their CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from yt8m_ray.config.space import encode
from yt8m_ray.local_files import replace_file

# `completed`: trained to its last epoch. `pruned`: the scheduler stopped it. `stopped`: a user or the budget did.
# `infeasible`: over a limit, so it was not trained. `invalid`: its keys do not go together, so it was not trained.
TrialStatus = Literal["running", "completed", "pruned", "stopped", "failed", "infeasible", "invalid"]

# The statuses of trials that have ended with a checkpoint, if they came to the end of an epoch.
TRAINED: tuple[TrialStatus, ...] = ("completed", "pruned", "stopped")


@dataclass(frozen=True)
class TrialRecord:
    """One trial; with population based training its params and run are the latest."""

    number: int
    params: dict[str, Any]  # by dotted key
    status: TrialStatus
    scores: dict[int, float] = field(default_factory=dict)  # the metric by epoch, from 1
    metrics: dict[str, float] = field(default_factory=dict)  # all validation metrics at the best epoch
    costs: dict[str, float] = field(default_factory=dict)
    run_name: str = ""  # its run's folder under `trials`
    cause: str = ""  # why it failed, or was not trained
    seconds: float = 0.0  # of training, over all its starts
    videos_per_s: float = math.nan  # at its last epoch
    started_s: float | None = None  # since 1970
    ended_s: float | None = None

    @property
    def best_score(self) -> float:
        """The highest score of its epochs; NaN before the first."""
        return max(self.scores.values(), default=math.nan)

    @property
    def best_epoch(self) -> int:
        """The first epoch with that score; 0 without any."""
        return max(self.scores, key=lambda epoch: (self.scores[epoch], -epoch), default=0)

    @property
    def num_epochs(self) -> int:
        return max(self.scores, default=0)


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Returns the trials that have a score and did not fail, by falling score, then by number."""
    scored = [record for record in records if record.status in TRAINED and record.scores]
    return sorted(scored, key=lambda record: (-record.best_score, record.number))


def pareto_front(records: Iterable[TrialRecord], cost: str) -> list[TrialRecord]:
    """Returns the trials that no other beats in both score and cost, the cheapest first."""
    by_cost = sorted(ranked(records), key=lambda record: (record.costs[cost], -record.best_score))
    front: list[TrialRecord] = []
    for record in by_cost:
        if not front or record.best_score > front[-1].best_score:
            front.append(record)
    return front


def searched_keys(records: Sequence[TrialRecord]) -> list[str]:
    """Returns every key that some trial has, in the order of appearance."""
    return _names(record.params for record in records)


def total_epochs(records: Iterable[TrialRecord]) -> int:
    """Returns the epochs of all trials together."""
    return sum(record.num_epochs for record in records)


def write_trials(path: Path, records: Sequence[TrialRecord], metric: str) -> None:
    """Writes a CSV file with a row a trial, by number: metrics of its best epoch, times in UTC, gaps empty."""
    metrics = [name for name in _names(record.metrics for record in records) if name != metric]
    costs, keys = _names(record.costs for record in records), searched_keys(records)
    header = ["number", "status", metric, "best_epoch", "num_epochs", *metrics, *costs, "seconds", "videos_per_s"]
    header += [*keys, "run_name", "started", "ended", "cause"]

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(_row(record, metric) for record in sorted(records, key=lambda record: record.number))

    replace_file(path, write)


def _names(tables: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def _row(record: TrialRecord, metric: str) -> dict[str, Any]:
    numbers = {
        **record.metrics,
        **record.costs,
        metric: record.best_score,
        "seconds": round(record.seconds, 3),
        "videos_per_s": record.videos_per_s,
    }
    return {
        "number": record.number,
        "status": record.status,
        "best_epoch": record.best_epoch or "",
        "num_epochs": record.num_epochs,
        **{name: value for name, value in numbers.items() if not math.isnan(value)},
        **{key: _text(value) for key, value in record.params.items()},
        "run_name": record.run_name,
        "started": _time(record.started_s),
        "ended": _time(record.ended_s),
        "cause": record.cause,
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)  # JSON's null is a choice, an empty cell is none


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
