"""The picture that has an axis for each searched key, and a line through them for each trial."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yt8m_ray.reporting.pictures import GREY, save_picture
from yt8m_ray.tuning.records import TrialRecord, ranked
from yt8m_ray.tuning.report.dimensions import Dimension, shown
from yt8m_ray.tuning.report.pictures import DARK, View

PARALLEL = "parallel.png"

_NOT_CHOSEN = -0.13
_MAX_TICKS = 16
_MAX_NAME_CHARACTERS = 16
_MAX_LINE_CHARACTERS = 20
_MAX_AXES = 14

Tick = tuple[float, str]


def draw_parallel(path: Path, records: Sequence[TrialRecord], dimensions: Sequence[Dimension], label: str) -> bool:
    """Draws the trials that have a score; returns whether there are two, and keys that differ.

    Of more than 14 keys that differ, the first 14 are drawn.
    """
    trials = ranked(records)[::-1]
    varied = [one for one in dimensions if one.low < one.high or len(one.values) > 1][:_MAX_AXES]
    if len(trials) < 2 or not varied:
        return False
    view = View.of([record.best_score for record in trials])
    low, high = (view.low, view.high) if view.high > view.low else view.limits

    ticks = [[*_ticks(one), *_gap_tick(one, trials)] for one in varied]
    places = _places(ticks)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = _colours()
        for rank, record in enumerate(trials):
            heights = [_height(record, one) for one in varied]
            heights.append((max(record.best_score, low) - low) / (high - low))
            strength = rank / (len(trials) - 1)
            is_best = rank == len(trials) - 1
            width = 3.2 if is_best else 0.9 + 0.8 * strength
            _draw_line(axes, places, heights, color=colours(strength), linewidth=width)
        for place, marks in zip(places, ticks, strict=False):
            _draw_axis(axes, place, marks)
        _draw_axis(axes, places[-1], _number_ticks(low, high), is_last=True)
        num_below = sum(record.best_score < low for record in trials)
        below = f"; {num_below} below the end of the axis of {label}" if num_below else ""
        names = [*(_name(one.key) for one in varied), label]
        subtitle = f"{len(trials)} trials; the darker the better, the best one thick{below}"
        _write_names(axes, places, names, subtitle)

    save_picture(path, draw, size=(max(8.0, 1.25 * (places[-1] + 1)), 5.8))
    return True


def _gap_tick(dimension: Dimension, trials: Sequence[TrialRecord]) -> list[Tick]:
    return [(_NOT_CHOSEN, "not chosen")] if any(dimension.key not in record.params for record in trials) else []


def _places(ticks: Sequence[Sequence[Tick]]) -> list[float]:
    """Returns where the axes stand, and the score's behind them: further apart where texts are long."""
    widths = [max(len(line) for _, text in marks for line in text.splitlines()) for marks in ticks]
    gaps = [max(1.0, 0.32 + 0.075 * width) for width in widths[1:]]
    return list(itertools.accumulate([*gaps, 1.0], initial=0.0))


def _colours() -> Colormap:
    """Returns colours from pale to dark: what is good stands out."""
    part = matplotlib.colormaps["YlGnBu"](np.linspace(0.22, 1.0, 256))
    return LinearSegmentedColormap.from_list("score", part)


def _height(record: TrialRecord, dimension: Dimension) -> float:
    is_chosen = dimension.key in record.params
    return dimension.position(record.params[dimension.key]) if is_chosen else _NOT_CHOSEN


def _draw_line(axes: Axes, places: Sequence[float], heights: Sequence[float], **style: object) -> None:
    """Draws a curve that is level at every axis, so that lines can be followed through a common value."""
    steps = np.linspace(0, 1, 24)
    bend = steps * steps * (3 - 2 * steps)
    x = np.concatenate([left + (right - left) * steps for left, right in itertools.pairwise(places)])
    y = np.concatenate([low + (high - low) * bend for low, high in itertools.pairwise(heights)])
    axes.plot(x, y, solid_capstyle="round", **style)  # type: ignore[arg-type]


def _draw_axis(axes: Axes, place: float, ticks: Sequence[Tick], *, is_last: bool = False) -> None:
    axes.plot([place, place], [0, 1], color=GREY, linewidth=1, zorder=5)
    for height, text in ticks:
        axes.plot([place - 0.02, place + 0.02], [height, height], color=GREY, linewidth=1, zorder=5)
        axes.text(
            place + (0.035 if is_last else -0.035),
            height,
            text,
            ha="left" if is_last else "right",
            va="center",
            fontsize=8,
            color=DARK,
            zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.78, "pad": 0.8},
        )


def _ticks(dimension: Dimension) -> list[Tick]:
    if dimension.scale == "category":
        step = math.ceil(len(dimension.values) / _MAX_TICKS)
        shares = [dimension.position(value) for value in dimension.values]
        lines = 3 if len(shares) <= _MAX_TICKS // 2 else 1
        texts = [_wrap(text, lines) for text in dimension.labels]
        return list(zip(shares, texts, strict=True))[::step]
    if dimension.scale == "linear":
        return _number_ticks(dimension.low, dimension.high, is_whole=dimension.is_whole)
    first, last = math.floor(math.log10(dimension.low)), math.ceil(math.log10(dimension.high))
    factors = (1,) if last - first > 3 else (1, 3) if last - first > 1 else (1, 2, 5)
    values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    inside = [value for value in values if dimension.low <= value * (1 + 1e-9) and value <= dimension.high * (1 + 1e-9)]
    return [(dimension.position(value), shown(value)) for value in inside] or _ends(dimension)


def _ends(dimension: Dimension) -> list[Tick]:
    return [(dimension.position(value), shown(value)) for value in (dimension.low, dimension.high)]


def _number_ticks(low: float, high: float, *, is_whole: bool = False) -> list[Tick]:
    values = MaxNLocator(6, integer=is_whole).tick_values(low, high)
    return [((value - low) / (high - low), shown(float(value))) for value in values if low <= value <= high]


def _name(key: str) -> str:
    """Returns a key in lines that are short: broken behind dots, and elsewhere only where a part is long."""
    lines = [""]
    for part in key.replace(".", ".\0").replace("_", "_\0").split("\0"):
        if lines[-1].endswith(".") or len(lines[-1]) + len(part) > _MAX_NAME_CHARACTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for line in lines if line)


def _wrap(text: str, lines: int) -> str:
    """Returns a text in at most so many lines."""
    found = textwrap.wrap(text, _MAX_LINE_CHARACTERS, max_lines=lines, placeholder="…", break_on_hyphens=False)
    return "\n".join(found)


def _write_names(axes: Axes, places: Sequence[float], names: Sequence[str], subtitle: str) -> None:
    for place, name in zip(places, names, strict=True):
        axes.text(place, 1.065, name, ha="center", va="bottom", fontsize=9, fontweight="bold", color=DARK)
    top = 30 + 12 * max(name.count("\n") + 1 for name in names)
    texts = {"What was tried": (top + 17, 13, "bold", "black"), subtitle: (top, 9, "normal", GREY)}
    for text, (height, size, weight, colour) in texts.items():
        axes.annotate(
            text,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, height),
            textcoords="offset points",
            fontsize=size,
            fontweight=weight,
            color=colour,
        )
    has_gaps = any(text.get_text() == "not chosen" for text in axes.texts)
    axes.set_xlim(places[0] - 0.75, places[-1] + 0.4)
    axes.set_ylim(_NOT_CHOSEN - 0.05 if has_gaps else -0.03, 1.02)
    axes.set_axis_off()
