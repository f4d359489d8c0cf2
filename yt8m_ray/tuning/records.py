"""What is known of the trials of a search: the one thing that tables, reports and the choice of the best look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TrialStatus = Literal["running", "completed", "pruned", "stopped", "failed", "infeasible", "invalid"]
"""`completed`: trained to its last epoch. `pruned`: the scheduler stopped it. `stopped`: a user or the budget did.
`infeasible`: over a limit, so it was not trained. `invalid`: its keys do not go together, so it was not trained."""

TRAINED: tuple[TrialStatus, ...] = ("completed", "pruned", "stopped")
"""The statuses of trials that have ended with a checkpoint, if they came to the end of an epoch."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: Its number in the search, from 0.
        params: What was chosen, by dotted key; of population based training the latest.
        status: See `TrialStatus`.
        scores: The metric by epoch, from 1.
        metrics: All validation metrics at its best epoch.
        costs: `int8_bytes`, `macs` and, where it was asked for, `latency_ms`.
        run_name: The folder of its run under `trials`; of population based training the latest.
        cause: Why it failed, or was not trained.
        seconds: Of its training, over all its starts.
        videos_per_s: At its last epoch.
        started_s, ended_s: Seconds since 1970; None where it has not.
    """

    number: int
    params: dict[str, Any]
    status: TrialStatus
    scores: dict[int, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    run_name: str = ""
    cause: str = ""
    seconds: float = 0.0
    videos_per_s: float = math.nan
    started_s: float | None = None
    ended_s: float | None = None

    @property
    def best_score(self) -> float:
        """The highest score of its epochs; NaN before the first."""
        return max(self.scores.values(), default=math.nan)

    @property
    def best_epoch(self) -> int:
        """The first epoch with that score, 0 before the first."""
        return max(self.scores, key=lambda epoch: (self.scores[epoch], -epoch), default=0)

    @property
    def num_epochs(self) -> int:
        """Epochs that it was trained for."""
        return max(self.scores, default=0)


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Returns the trials that have a score and did not fail, the best first; the earlier of two that are equal."""
    scored = [record for record in records if record.status in TRAINED and record.scores]
    return sorted(scored, key=lambda record: (-record.best_score, record.number))


def pareto_front(records: Iterable[TrialRecord], cost: str) -> list[TrialRecord]:
    """Returns the trials than which no other has both a higher score and a lower cost, the cheapest first."""
    by_cost = sorted(ranked(records), key=lambda record: (record.costs[cost], -record.best_score))
    front: list[TrialRecord] = []
    for record in by_cost:
        if not front or record.best_score > front[-1].best_score:
            front.append(record)
    return front


def searched_keys(records: Sequence[TrialRecord]) -> list[str]:
    """Returns every key that was chosen in some trial, in the order in which they come."""
    return list(dict.fromkeys(key for record in records for key in record.params))


def total_epochs(records: Iterable[TrialRecord]) -> int:
    """Returns the epochs that all trials together were trained for."""
    return sum(record.num_epochs for record in records)
