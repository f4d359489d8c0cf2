"""The progress of a search: a live table on a terminal, a log line for each event elsewhere."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table

from yt8m_ray.tuning.records import TrialRecord, ranked, searched_keys, total_epochs

_MOST_ROWS = 20
_EPOCH_LINE = re.compile(r"trial \d+ epoch \d+: ")
_STYLES = {"running": "bold", "completed": "green", "failed": "red", "infeasible": "dim", "invalid": "dim"}


def describe_params(params: dict[str, Any]) -> str:
    """Returns values by key in one line."""
    return "  ".join(f"{key}={shown(value)}" for key, value in params.items())


def describe_end(record: TrialRecord) -> str:
    """Returns how a trial ended, in one line."""
    best = "" if math.isnan(record.best_score) else f" best {record.best_score:.4f} in epoch {record.best_epoch}"
    cause = f": {record.cause}" if record.cause else ""
    return f"trial {record.number} {record.status}{cause};{best or ' no epoch'} of {record.num_epochs}"


def shown(value: Any) -> str:
    """Returns a value as short as a cell needs."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return str(value.get("name", value))
    return str(value)


def trials_table(records: Sequence[TrialRecord], *, metric: str, title: str = "") -> Table:
    """Returns the table of a search: running trials first, then those that ended, by score."""
    keys = searched_keys(records)
    short = _short_names(keys)
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), header_style="dim")
    table.add_column("trial", justify="right")
    for key in keys:
        table.add_column(short[key], justify="right", overflow="fold")
    for name in ("epoch", "last " + metric, "best " + metric, "videos/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for record in _rows(records):
        last = record.scores.get(record.num_epochs, math.nan)
        table.add_row(
            str(record.number),
            *(shown(record.params[key]) if key in record.params else "" for key in keys),
            str(record.num_epochs),
            _number(last, ".4f"),
            _number(record.best_score, ".4f"),
            _number(record.videos_per_s, ".0f"),
            record.status,
            style=_STYLES.get(record.status, ""),
        )
    return table


def headline(records: Sequence[TrialRecord], *, metric: str) -> str:
    """Returns the trials by status, the epochs and the best score in one line."""
    counts = Counter(record.status for record in records)
    numbers = ", ".join(f"{count} {status}" for status, count in counts.items())
    scored = [record for record in records if record.scores and record.status != "failed"]
    best = max(scored, key=lambda record: (record.best_score, -record.number), default=None)
    found = "" if best is None else f"; best {metric} {best.best_score:.4f} (trial {best.number})"
    return (
        f"{len(records)} trial{'s' * (len(records) != 1)}: {numbers or 'none'}; {total_epochs(records)} epochs{found}"
    )


@contextlib.contextmanager
def live_table(metric: str) -> Iterator[Callable[[Sequence[TrialRecord]], None]]:
    """Yields a function that shows the trials in a table at the foot of a terminal; without one, it does nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    console = Console(stderr=True)
    root = logging.getLogger()
    before = root.handlers
    # The log goes on above the table, without the lines that say the same.
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False, markup=False)
    handler.addFilter(lambda record: _EPOCH_LINE.match(record.getMessage()) is None)
    root.handlers = [handler]
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield lambda records: live.update(
                trials_table(records, metric=metric, title=headline(records, metric=metric))
            )
    finally:
        root.handlers = before


def _rows(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    running = [record for record in records if record.status == "running"]
    best = ranked(records)
    rest = [record for record in records if record not in best and record not in running]
    return [*running, *best, *reversed(rest)][:_MOST_ROWS]


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Returns the last part of each key, or as many parts as distinguish it."""
    names = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if sum(f".{other}".endswith(f".{name}") for other in keys) == 1:
                break
        names[key] = name
    return names


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
