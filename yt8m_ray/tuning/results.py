"""The table of a search's trials, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yt8m_ray.config.space import encode
from yt8m_ray.data.pictures import replace_file
from yt8m_ray.tuning.records import TrialRecord, searched_keys


def write_trials(path: Path, records: Sequence[TrialRecord], metric: str) -> None:
    """Writes a CSV file with a row for each trial, by number; a cell is empty where there is nothing to say.

    The metrics are those of a trial's best epoch, times are UTC. Texts stand as they are; any other value of a searched
    key is JSON, so that a null that was chosen differs from a key that was not.
    """
    metrics = [name for name in _names(record.metrics for record in records) if name != metric]
    costs, keys = _names(record.costs for record in records), searched_keys(records)
    header = ["number", "status", metric, "best_epoch", "num_epochs", *metrics, *costs, "seconds", "videos_per_s"]

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*header, *keys, "run_name", "started", "ended", "cause"])
            for record in sorted(records, key=lambda record: record.number):
                writer.writerow(_row(record, metrics, costs, keys))

    replace_file(path, write)


def _names(tables: Iterable[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def _row(record: TrialRecord, metrics: Sequence[str], costs: Sequence[str], keys: Sequence[str]) -> list[Any]:
    return [
        record.number,
        record.status,
        _number(record.best_score),
        record.best_epoch or "",
        record.num_epochs,
        *(_number(record.metrics.get(name)) for name in metrics),
        *(_number(record.costs.get(name)) for name in costs),
        round(record.seconds, 3),
        _number(record.videos_per_s),
        *(_text(record.params[key]) if key in record.params else "" for key in keys),
        record.run_name,
        _time(record.started_s),
        _time(record.ended_s),
        record.cause,
    ]


def _number(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
