"""The picture of score against a cost, and how costs are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from yt8m_ray.reporting.pictures import label_axes, save_picture
from yt8m_ray.tuning.records import TRAINED, TrialRecord, pareto_front, ranked
from yt8m_ray.tuning.report.pictures import COLOURS, DARK, ORANGE, View, put_key_outside


@dataclass(frozen=True)
class CostScale:
    """How a cost is written.

    Attributes:
        name: What readers call it.
        unit: Of the numbers written.
        size: One unit in that of `TrialRecord.costs`.
    """

    name: str
    unit: str
    size: float


COSTS = {
    "int8_bytes": CostScale("size", "MB, int8", 1e6),
    "macs": CostScale("multiply-accumulates of a clip", "millions", 1e6),
    "latency_ms": CostScale("latency of a clip", "ms", 1.0),
}


def draw_front(path: Path, records: Sequence[TrialRecord], cost: str, label: str) -> bool:
    """Draws score against a cost, with the trials that no other beats in both; returns whether there are any."""
    measured = [record for record in ranked(records) if cost in record.costs]
    if not measured:
        return False
    front, scale = pareto_front(measured, cost), COSTS[cost]
    view = View.of([record.best_score for record in (*measured, *front)])
    costs = {record.number: record.costs[cost] / scale.size for record in measured}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        others = [record for record in measured if record not in front]
        _draw_others(axes, others, costs, view)
        x, y = [costs[record.number] for record in front], view.clip([record.best_score for record in front])
        axes.step(x, y, where="post", color=ORANGE, linewidth=1.5, alpha=0.6)
        axes.scatter(x, y, s=46, color=ORANGE, zorder=4, label=f"front, {len(front)}")
        axes.set_ylim(*view.limits)
        _lay_out_costs(axes, list(costs.values()))
        scores = [record.best_score for record in measured]
        subtitle = f"line: the best for its {scale.name}{view.remark(scores)}"
        title, x_label = f"{label} against {scale.name}", f"{scale.name} ({scale.unit})"
        label_axes(axes, title=title, subtitle=subtitle, x=x_label, y=label)
        put_key_outside(axes)
        _name_points(figure, axes, front, list(zip(x, y, strict=True)))

    save_picture(path, draw)
    return True


def _draw_others(axes: Axes, others: Sequence[TrialRecord], costs: dict[int, float], view: View) -> None:
    for status in TRAINED:
        found = [record for record in others if record.status == status]
        for marker, is_below in (("o", False), ("v", True)):
            part = [record for record in found if (record.best_score < view.low) == is_below]
            axes.scatter(
                [costs[record.number] for record in part],
                view.clip([record.best_score for record in part]),
                s=24,
                marker=marker,
                color=COLOURS[status],
                linewidths=0,
                label=f"{status}, {len(found)}" if found and not is_below else None,
            )


def _lay_out_costs(axes: Axes, costs: Sequence[float]) -> None:
    low, high = min(costs), max(costs)
    if low > 0 and high > 4 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        pad = 0.1 * (high - low) or 0.1 * high or 1.0
        axes.set_xlim(low - pad, high + pad)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_points(
    figure: Figure, axes: Axes, front: Sequence[TrialRecord], points: Sequence[tuple[float, float]]
) -> None:
    """Writes the numbers of trials beside their points, the best first, where there is room."""
    figure.draw_without_rendering()  # where points come to lie is known behind it
    taken: list[np.ndarray] = []
    for record, point in reversed(list(zip(front, points, strict=True))):
        place = axes.transData.transform(point) * 72 / figure.dpi
        if all(abs(place[0] - other[0]) > 24 or abs(place[1] - other[1]) > 12 for other in taken):
            taken.append(place)
            axes.annotate(
                f"#{record.number}",
                point,
                xytext=(-5, 5),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                color=DARK,
            )
