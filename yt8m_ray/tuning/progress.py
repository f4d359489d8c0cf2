"""A search as its user sees it: one live table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
from collections.abc import Iterator, Sequence
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
    """Returns in one line how a trial has ended."""
    best = "" if math.isnan(record.best_score) else f" best {record.best_score:.4f} in epoch {record.best_epoch}"
    cause = f": {record.cause}" if record.cause else ""
    return f"trial {record.number} {record.status}{cause};{best or ' no epoch'} of {record.num_epochs}"


def shown(value: Any) -> str:
    """Returns a value as a cell shows it."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return str(value.get("name", value))
    return str(value)


def trials_table(records: Sequence[TrialRecord], *, metric: str, title: str = "") -> Table:
    """Returns the table of a search: running trials first, then those that ended, the best first."""
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
    """Returns how far a search is: trials by status, epochs, the best."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record.status] = counts.get(record.status, 0) + 1
    numbers = ", ".join(f"{count} {status}" for status, count in counts.items())
    scored = [record for record in records if record.scores and record.status != "failed"]
    best = max(scored, key=lambda record: (record.best_score, -record.number), default=None)
    found = "" if best is None else f"; best {metric} {best.best_score:.4f} (trial {best.number})"
    return (
        f"{len(records)} trial{'s' * (len(records) != 1)}: {numbers or 'none'}; {total_epochs(records)} epochs{found}"
    )


class LiveTable:
    """The table at the foot of a terminal.

    Args:
        metric: The score's name.
        live: Where it is drawn; None where there is no terminal.
    """

    def __init__(self, metric: str, live: Live | None) -> None:
        self._metric = metric
        self._live = live

    def show(self, records: Sequence[TrialRecord]) -> None:
        """Draws the trials as they are now."""
        if self._live is not None:
            title = headline(records, metric=self._metric)
            self._live.update(trials_table(records, metric=self._metric, title=title))


@contextlib.contextmanager
def live_table(metric: str) -> Iterator[LiveTable]:
    """Yields a table where stderr is a terminal, above which log lines go on; elsewhere one that shows nothing."""
    if not sys.stderr.isatty():
        yield LiveTable(metric, None)
        return
    console = Console(stderr=True)
    root = logging.getLogger()
    before = root.handlers
    # The table says what the lines of single epochs say.
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False, markup=False)
    handler.addFilter(lambda record: _EPOCH_LINE.match(record.getMessage()) is None)
    root.handlers = [handler]
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield LiveTable(metric, live)
    finally:
        root.handlers = before


def _rows(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    running = [record for record in records if record.status == "running"]
    best = ranked(records)
    rest = [record for record in records if record not in best and record not in running]
    return [*running, *best, *reversed(rest)][:_MOST_ROWS]


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Returns the last part of each key, or as many parts as tell it from the others."""
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
