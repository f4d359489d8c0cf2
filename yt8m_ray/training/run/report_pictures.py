"""The pictures of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from yt8m_ray.metrics.curves import NUM_CLASSES
from yt8m_ray.reporting.pictures import BLUE, GREY, count_in_thousands, label_axes, save_picture

CURVES, CLASSES, PRECISION, CALIBRATION = "curves.png", "classes.png", "precision_recall.png", "calibration.png"

_COLOURS = (BLUE, "#d9793a", "#3a9a5b", "#8a5fb3", "#c2a024")
QUALITIES = {"gap": "GAP", "hit_at_1": "Hit@1", "perr": "PERR", "mean_ap": "mAP"}

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
Panel = Mapping[str, tuple[np.ndarray, np.ndarray] | None]
Details = Mapping[str, np.ndarray]


def draw_curves(path: Path, curves: Curves) -> bool:
    """Draws loss and quality over steps; returns whether there is anything to draw."""
    losses = {"training": curves.get("train/loss"), "validation": curves.get("validation/loss")}
    qualities = {label: curves.get(f"validation/{name}") for name, label in QUALITIES.items()}
    qualities["GAP of recent training batches"] = curves.get("train/gap")
    panels = [panel for panel in (losses, qualities) if any(curve is not None for curve in panel.values())]
    if not panels:
        return False

    def draw(figure: Figure) -> None:
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, panel, is_loss=panel is losses)

    save_picture(path, draw, size=(10.0, 4.4))
    return True


def _draw_panel(axes: Axes, panel: Panel, *, is_loss: bool) -> None:
    colours = iter(_COLOURS)
    highest = last_step = 0.0
    for label, curve in panel.items():
        if curve is None:
            continue
        steps, values = curve
        is_training = "training" in label
        colour = "#a9b8c9" if is_training else next(colours)
        marker = None if is_training or len(steps) > 30 else "o"
        axes.plot(steps, values, color=colour, linewidth=1.5, marker=marker, markersize=4, label=label)
        # The first tenth of a loss is far above all that follows, and would hide it.
        highest = max(highest, float(values[len(values) // 10 :].max()))
        last_step = max(last_step, float(steps[-1]))
    axes.set_xlim(0, 1.02 * last_step)
    axes.set_ylim(0, 1.05 * highest or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    count_in_thousands(axes.xaxis)
    axes.legend(frameon=False, fontsize=9)
    title, subtitle = "Quality", "on the validation videos"
    if is_loss:
        title, subtitle = "Loss", "sum over the classes, mean over the videos"
    label_axes(axes, title=title, subtitle=subtitle, x="steps", y=title.lower())


def draw_classes(path: Path, details: Details) -> None:
    """Draws the average precision of each class against how many validation videos have it."""
    counts, precisions = details["class_num_videos"], details["class_ap"]
    seen = np.flatnonzero(counts > 0)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        # Without a spread, classes with one video would be one point.
        spread = np.random.default_rng(0).uniform(-0.12, 0.12, len(seen))
        axes.scatter(counts[seen] + spread * (counts[seen] < 30), precisions[seen], s=9, color=BLUE, alpha=0.35, lw=0)
        middles, means = _binned_means(counts[seen], precisions[seen])
        axes.plot(middles, means, color=_COLOURS[1], linewidth=2, marker="o", markersize=4, label="mean of the classes")
        axes.set_xscale("log")
        axes.set_xlim(0.8, 1.3 * counts.max())
        axes.set_ylim(-0.02, 1.02)
        count_in_thousands(axes.xaxis)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        label_axes(
            axes,
            title="Average precision of each class",
            subtitle=f"{len(seen):,} of {len(counts):,} classes have a validation video; "
            f"their mean is {float(np.mean(precisions[seen])):.3f}",
            x="validation videos with the label",
            y="average precision",
        )

    save_picture(path, draw)


def _binned_means(counts: np.ndarray, precisions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (geometric mean count, mean precision) of the classes between powers of two."""
    # Few classes have many videos: a curve of the mean needs bins that widen.
    bins = np.floor(np.log2(counts)).astype(int)
    used = np.unique(bins)
    middles = [np.exp(np.log(counts[bins == number]).mean()) for number in used]
    return np.array(middles), np.array([precisions[bins == number].mean() for number in used])


def draw_precision_recall(path: Path, details: Details, names: Sequence[str]) -> None:
    """Draws precision against recall of the best and of the worst classes, called `names` in the order of details."""
    num_best = (len(names) + 1) // 2 if len(names) < 2 * NUM_CLASSES else NUM_CLASSES
    halves = {"Best classes": range(num_best), "Worst classes": range(num_best, len(names))}
    precisions, counts = details["class_ap"], details["class_num_videos"]

    def draw(figure: Figure) -> None:
        for axes, (title, rows) in zip(figure.subplots(1, 2, sharey=True), halves.items(), strict=True):
            for row, colour in zip(rows, _COLOURS, strict=False):
                class_id = details["curve_class_ids"][row]
                num_videos = f"{counts[class_id]:,} video{'' if counts[class_id] == 1 else 's'}"
                label = f"{_short(names[row])}, AP {precisions[class_id]:.2f}, {num_videos}"
                recall, precision = details["curve_recall"][row], details["curve_precision"][row]
                axes.plot(recall, precision, color=colour, linewidth=1.6, label=label, marker=".", markersize=3)
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14))
            label_axes(axes, title=title, subtitle="among the best 20 of each video", x="recall", y="precision")

    save_picture(path, draw, size=(10.0, 5.6))


def draw_calibration(path: Path, details: Details) -> None:
    """Draws how often a class with a score is a label, over how many pairs there are."""
    num_pairs = details["calibration_num_pairs"]
    edges = np.linspace(0, 1, len(num_pairs) + 1)

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        has_pairs = num_pairs > 0
        scores, frequencies = details["calibration_score"][has_pairs], details["calibration_frequency"][has_pairs]
        upper.plot(scores, frequencies, color=BLUE, marker="o", markersize=5, linewidth=1.5)
        upper.set_ylim(-0.02, 1.02)
        label_axes(
            upper,
            title="Calibration",
            subtitle="pairs of a video and one of its 20 best classes; dashed: scores that are probabilities",
            x="",
            y="share that are labels",
        )
        lower.bar(edges[:-1], num_pairs, width=np.diff(edges) * 0.92, align="edge", color=BLUE)
        lower.set_yscale("log")
        lower.set_xlim(0, 1)
        count_in_thousands(lower.yaxis)
        label_axes(lower, title="", subtitle="", x="score", y="pairs")
        for axis in (upper.yaxis, upper.xaxis):
            axis.set_major_formatter(PercentFormatter(1.0))

    save_picture(path, draw, size=(8.0, 5.6))


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"
