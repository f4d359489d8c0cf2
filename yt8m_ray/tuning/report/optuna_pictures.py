"""Optuna's own pictures of the searched keys and of score against a cost, made readable on a page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter
from optuna.visualization.matplotlib import plot_parallel_coordinate, plot_pareto_front

from yt8m_ray.local_files import replace_file
from yt8m_ray.reporting.pictures import DPI, SIZE_INCHES, label_axes
from yt8m_ray.tuning.records import TrialRecord, pareto_front, ranked
from yt8m_ray.tuning.report.dimensions import Dimension, study_of
from yt8m_ray.tuning.report.pictures import View
from yt8m_ray.tuning.study_file import without_experimental_warnings

PARALLEL = "parallel.png"

_MAX_AXES = 14
_MAX_LINE_CHARACTERS = 16


@dataclass(frozen=True)
class CostScale:
    """How a cost is written; `size` is one unit in that of `TrialRecord.costs`."""

    name: str
    unit: str
    size: float
    header: str


COSTS = {
    "int8_bytes": CostScale("size", "MB, int8", 1e6, "MB (int8)"),
    "macs": CostScale("multiply-accumulates of a clip", "millions", 1e6, "million MACs"),
    "latency_ms": CostScale("latency of a clip", "ms", 1.0, "ms a clip"),
}


def draw_parallel(path: Path, records: Sequence[TrialRecord], dimensions: Sequence[Dimension], label: str) -> bool:
    """Draws the scored trials over the first 14 keys that differ; returns whether there are two trials and such a key.

    Trials far below the others are left out: they would take up most of the colours and of the score's axis.
    """
    scored = ranked(records)[::-1]  # Optuna draws in this order, so that the best line is on top
    if len(scored) < 2:
        return False
    view = View.of([record.best_score for record in scored])
    trials = [record for record in scored if record.best_score >= view.low]
    chosen = {key for record in trials for key in record.params}
    varied = [one for one in dimensions if one.key in chosen and not one.distribution.single()][:_MAX_AXES]
    if not varied:
        return False
    keys = sorted(one.key for one in varied)  # Optuna's order

    def finish(axes: Axes) -> None:
        figure = axes.get_figure(root=True)
        assert figure is not None
        axes.collections[0].set(cmap="YlGnBu", alpha=0.75)
        axes.set_title(f"What was tried: {len(trials)} trials{view.remark([one.best_score for one in scored])}")
        # Optuna 5.0 cuts keys off after 20 characters, and writes labels over lines and into the next axis.
        axes.set_xticks(range(len(keys) + 1), [label, *keys], rotation=335, ha="left")
        for axis in figure.axes:
            if isinstance(axis.yaxis.get_major_locator(), FixedLocator):
                wrapped = [textwrap.fill(text.get_text(), _MAX_LINE_CHARACTERS) for text in axis.get_yticklabels()]
                axis.set_yticks(axis.get_yticks(), wrapped)
            for text in axis.get_yticklabels():
                text.set(fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.78, "pad": 0.8})

    study, size = study_of(trials, varied), (3 + 1.5 * len(keys), 6.0)
    _save(path, lambda: plot_parallel_coordinate(study, params=keys, target_name=label), finish, size)
    return True


def draw_front(path: Path, records: Sequence[TrialRecord], cost: str, label: str) -> bool:
    """Draws score against a cost, the trials that no other beats in both in red; returns whether there are any."""
    measured = [record for record in ranked(records) if cost in record.costs]
    if not measured:
        return False
    scale, scores = COSTS[cost], [record.best_score for record in measured]
    # The front counts twice: where it falls steeply, its cheap end is no outlier.
    view = View.of([*scores, *(record.best_score for record in pareto_front(measured, cost))])
    costs = [record.costs[cost] for record in measured]

    def finish(axes: Axes) -> None:
        axes.set_facecolor("white")
        axes.set_title("")
        axes.set_ylim(*view.limits)
        if 0 < 4 * min(costs) < max(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale.size:,.10g}"))
        subtitle = f"red: no other trial is both better and cheaper{view.remark(scores)}"
        label_axes(
            axes, title=f"{label} against {scale.name}", subtitle=subtitle, x=f"{scale.name} ({scale.unit})", y=label
        )

    study = study_of(measured, [], cost)
    _save(path, lambda: plot_pareto_front(study, target_names=[cost, label]), finish, SIZE_INCHES)
    return True


def _save(path: Path, plot: Callable[[], Axes], finish: Callable[[Axes], None], size: tuple[float, float]) -> None:
    """Writes the PNG of a figure that Optuna makes and `finish` lays out."""
    backend = matplotlib.get_backend()
    pyplot.switch_backend("agg")  # Optuna draws with pyplot, which opens a window where the user's settings say so
    try:
        # Optuna 5.0 sets pyplot's style, which would stay for every later picture of the process.
        with pyplot.rc_context({"figure.figsize": size}), without_experimental_warnings():
            axes = plot()
            finish(axes)
            replace_file(path, lambda aside: pyplot.savefig(aside, format="png", dpi=DPI, bbox_inches="tight"))
            pyplot.close()
    finally:
        pyplot.switch_backend(backend)
