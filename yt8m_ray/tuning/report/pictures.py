"""The pictures of how a search went: the best score over time, curves by epoch, importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from yt8m_ray.reporting.pictures import BLUE, GREY, label_axes, save_picture
from yt8m_ray.tuning.records import TRAINED, TrialRecord, TrialStatus, ranked
from yt8m_ray.tuning.report.importance import Importance

PROGRESS, EPOCHS, IMPORTANCE = "progress.png", "epochs.png", "importance.png"

_DARK = "#202124"
_PALE = "#a9b8c9"
_ORANGE = "#d9793a"
_COLOURS: dict[TrialStatus, str] = {
    "running": "#3a9a5b",
    "failed": "#b3403a",
    "stopped": "#c2a024",
    "pruned": _PALE,
    "completed": BLUE,
}
_STATUSES = list(_COLOURS)  # what is drawn later covers the rest
_MAX_PAUSE_S = 600.0
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


@dataclass(frozen=True)
class View:
    """The scores that a picture shows; its axes cut off those below `low`."""

    low: float
    high: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> View:
        """Returns the view of at least one score."""
        # A box plot's whisker: one score far below the others would press them together.
        quarter, three_quarters = np.quantile(scores, [0.25, 0.75])
        whisker = quarter - 1.5 * (three_quarters - quarter)
        return cls(min(score for score in scores if score >= whisker), max(scores))

    @property
    def limits(self) -> tuple[float, float]:
        """The ends of an axis, with room for a label above."""
        pad = 0.05 * (self.high - self.low) or 0.02 * abs(self.high) or 0.01
        return self.low - pad, self.high + 2 * pad

    def remark(self, scores: Sequence[float]) -> str:
        """Returns the end of a subtitle that counts the trials below; empty where there are none."""
        count = sum(score < self.low for score in scores)
        return f"; {count} trial{' lies' if count == 1 else 's lie'} further down" if count else ""


def draw_progress(path: Path, records: Sequence[TrialRecord], label: str) -> bool:
    """Draws the best score so far over time and over epochs spent; returns whether there is anything to draw."""
    ended = sorted(ranked(records), key=lambda record: (record.ended_s or 0.0, record.number))
    if not ended:
        return False
    panels = [_time_panel(ended)] if all(record.ended_s and record.started_s for record in ended) else []
    panels.append((np.cumsum([record.num_epochs for record in ended]), "epochs of training, all trials together"))
    scores = [record.best_score for record in ended]
    view = View.of(scores)

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (places, x) in zip(row, panels, strict=True):
            _draw_best_so_far(axes, ended, places, view)
            label_axes(axes, title="", subtitle="", x=x, y="")
        subtitle = f"a dot is a trial at its end{view.remark(scores)}"
        label_axes(row[0], title=f"Best {label} so far", subtitle=subtitle, x=panels[0][1], y=label)
        _put_key_outside(row[-1])

    save_picture(path, draw, size=(11.0, 4.4))
    return True


def _time_panel(ended: Sequence[TrialRecord]) -> tuple[np.ndarray, str]:
    """Returns when trials ended and the axis's name; hours between two starts of the search are cut out."""
    spans = sorted((record.started_s or 0.0, record.ended_s or 0.0) for record in ended)
    starts, pauses, last_end = [spans[0][0]], [spans[0][0]], spans[0][1]
    for start, end in spans:
        if start > last_end + _MAX_PAUSE_S:
            starts.append(start)
            pauses.append(pauses[-1] + start - last_end)
        last_end = max(last_end, end)
    ends = np.array([record.ended_s for record in ended])
    seconds = ends - np.array(pauses)[np.searchsorted(starts, ends, side="right") - 1]
    unit, size = next((unit, size) for unit, size in _UNITS if seconds.max() >= 2 * size or size == 1)
    return seconds / size, f"{unit} since the search began" + (", without pauses" if len(starts) > 1 else "")


def _draw_best_so_far(axes: Axes, ended: Sequence[TrialRecord], places: np.ndarray, view: View) -> None:
    scores = np.array([record.best_score for record in ended])
    best = np.maximum.accumulate(scores)
    axes.step(places, best, where="post", color=_ORANGE, linewidth=2, label="best so far")
    for status in TRAINED:
        found = np.array([record.status == status for record in ended])
        if found.any():
            label, colour = f"{status}, {int(found.sum())}", _COLOURS[status]
            axes.scatter(places[found], scores[found], label=label, s=22, color=colour, linewidths=0, zorder=3)
    winner = ended.index(ranked(ended)[0])
    is_right = places[winner] > 0.6 * places[-1]
    axes.annotate(
        f"#{ended[winner].number}  {scores[winner]:.4f}",
        (places[winner], scores[winner]),
        xytext=(4 if is_right else -4, 5),
        textcoords="offset points",
        ha="right" if is_right else "left",
        fontsize=9,
        fontweight="bold",
        color=_DARK,
    )
    axes.set_xlim(0, 1.03 * places[-1] or 1.0)
    axes.set_ylim(*view.limits)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _put_key_outside(axes: Axes) -> None:  # where it hides no point
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_epochs(path: Path, records: Sequence[TrialRecord], label: str) -> bool:
    """Draws each trial's scores by epoch, and how many trials came there; returns whether there are any."""
    scored = [record for record in records if record.scores and record.status in _COLOURS]
    if not scored:
        return False
    best = next(iter(ranked(scored)), None)
    last = max(record.num_epochs for record in scored)
    epochs = sorted({epoch for record in scored for epoch in record.scores})
    views = [View.of([record.scores[epoch] for record in scored if epoch in record.scores]) for epoch in epochs]
    view = View(min(view.low for view in views), max(view.high for view in views))

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        for record in sorted(scored, key=lambda record: _STATUSES.index(record.status)):
            if record is not best:
                _draw_curve(upper, record, color=_COLOURS[record.status], linewidth=1.2, alpha=0.75)
        if best is not None:
            named = f"#{best.number}, the best: {best.best_score:.4f}"
            _draw_curve(upper, best, color=_ORANGE, linewidth=2.6, label=named)
        for status in _STATUSES[::-1]:
            if count := sum(record.status == status for record in scored):
                upper.plot([], [], color=_COLOURS[status], linewidth=1.5, label=f"{status}, {count}")
        _put_key_outside(upper)
        upper.set_ylim(*view.limits)
        scores = [record.best_score for record in scored]
        subtitle = f"a line ends where its trial was stopped or failed{view.remark(scores)}"
        label_axes(upper, title=f"{label} by epoch", subtitle=subtitle, x="", y=label)
        counts = [sum(record.num_epochs >= epoch for record in scored) for epoch in range(1, last + 1)]
        bars = lower.bar(range(1, last + 1), counts, color=_PALE, width=0.7)
        if last <= 25:
            lower.bar_label(bars, fontsize=8, color=GREY, padding=1)
        lower.set_ylim(0, 1.3 * len(scored))
        lower.set_xlim(0.5, last + 0.5)
        lower.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        label_axes(lower, title="", subtitle="", x="epoch", y="trials")
        lower.grid(False)

    save_picture(path, draw, size=(8.0, 5.8))
    return True


def _draw_curve(axes: Axes, record: TrialRecord, **style: Any) -> None:
    epochs, scores = zip(*sorted(record.scores.items()), strict=True)
    axes.plot(epochs, scores, marker="o", markersize=4, markevery=[-1], **style)


def draw_importance(path: Path, found: Sequence[Importance], num_trials: int) -> None:
    """Draws the importance of each key with what chance would give."""
    places = np.arange(len(found))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = [BLUE if one.is_told else _PALE for one in found]
        axes.barh(places, [one.share for one in found], color=colours, height=0.62)
        axes.vlines([one.chance for one in found], places - 0.4, places + 0.4, color=_ORANGE, linewidth=2)
        axes.plot([], [], color=_ORANGE, linewidth=2, label="99 of 100 random orders stay left of this")
        names = [
            one.key if one.num_trials == num_trials else f"{one.key}\n(in {one.num_trials} trials)" for one in found
        ]
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(max(one.share, one.chance) for one in found))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(frameon=False, fontsize=9, loc="outside lower right")
        subtitle = f"for being among the best, over {num_trials} trials; pale: no more than chance"
        label_axes(axes, title="Importance of each key", subtitle=subtitle, x="share of all importance", y="")
        axes.grid(False, axis="y")

    save_picture(path, draw, size=(8.0, 2.1 + 0.42 * len(found)))
