"""How many videos each class has, and each length of clip: a table and two pictures of a data set."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yt8m_ray.data.inspection.shard_counts import Survey
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.local_files import replace_file
from yt8m_ray.reporting.pictures import BLUE, GREY, count_in_thousands, label_axes, save_picture

CLASS_TABLE = "class_histogram.csv"
CLASS_PICTURE = "class_histogram.png"
FRAMES_PICTURE = "frames_histogram.png"

# Far enough apart that the names of their classes do not overlap.
_NAMED_RANKS = (1, 3, 10, 30, 100, 300, 1000)
# In frames.
_LEAST_WIDTH = 10
_MOST_BARS = 60


def write_histograms(counts: Survey, folder: str | Path, *, features: Iterable[str], num_classes: int) -> None:
    """Writes a table of all classes and what there is to draw: labels if a video has one, lengths at frame level."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    num_videos = np.zeros(num_classes, np.int64)
    num_videos[: len(counts.class_counts)] = counts.class_counts
    vocabulary = Vocabulary.meant_by(features, num_classes)
    replace_file(folder / CLASS_TABLE, lambda aside: _write_table(aside, num_videos, vocabulary))
    if num_videos.any():
        save_picture(folder / CLASS_PICTURE, lambda figure: _draw_classes(figure, num_videos, counts, vocabulary))
    if counts.clips:
        save_picture(folder / FRAMES_PICTURE, lambda figure: _draw_clips(figure, counts))


def _write_table(path: Path, num_videos: np.ndarray, vocabulary: Vocabulary) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("class_id", "name", "num_videos"))
        rows = enumerate(num_videos.tolist())
        writer.writerows((class_id, vocabulary.name(class_id), count) for class_id, count in rows)


def _draw_classes(figure: Figure, num_videos: np.ndarray, survey: Survey, vocabulary: Vocabulary) -> None:
    axes = figure.add_subplot()
    order = np.argsort(-num_videos, kind="stable")
    seen = np.count_nonzero(num_videos)
    ranks, counts = np.arange(1, seen + 1), num_videos[order[:seen]]
    axes.loglog(ranks, counts, color=BLUE, linewidth=1.5)
    named = [rank for rank in _NAMED_RANKS if rank <= seen]
    axes.plot(named, counts[np.array(named) - 1], "o", color=BLUE, markersize=5)
    for rank in named:
        name = vocabulary.name(int(order[rank - 1])) or f"class {order[rank - 1]}"
        _note(axes, f"{name}, {counts[rank - 1]:,}", (rank, counts[rank - 1]), xytext=(7, 5), fontsize=8.5)
    # Always with a power of ten on the axis, which gets a number.
    axes.set_ylim(0.8, max(2.0 * counts[0], 12.0))
    axes.set_xlim(0.9, 1.3 * len(num_videos))
    count_in_thousands(axes.xaxis, axes.yaxis)
    label_axes(
        axes,
        title="Videos of each class",
        subtitle=f"{_count(survey.num_videos, 'video')}, {_count(num_videos.sum(), 'label')}; "
        f"{seen:,} of {len(num_videos):,} classes have a video",
        x="rank of the class by its videos",
        y="videos",
    )


def _draw_clips(figure: Figure, counts: Survey) -> None:
    axes = figure.add_subplot()
    lengths, num_videos = np.array(sorted(counts.clips.items()), np.int64).T
    first, last = int(lengths[0]), int(lengths[-1])
    width = math.ceil((last - first + 1) / _MOST_BARS)
    # A length is in the middle of its bar.
    edges = np.arange(first, last + width + 1, width) - 0.5
    heights, _ = np.histogram(lengths, edges, weights=num_videos)
    axes.bar(edges[:-1], heights, width=0.92 * width, align="edge", color=BLUE)
    margin = max(_LEAST_WIDTH - (last - first), 2) / 2
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    mean = counts.num_frames / counts.clips.total()
    axes.axvline(mean, color=GREY, linewidth=1, linestyle="--")
    _note(axes, f"mean {mean:.0f}", (mean, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -10), fontsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    count_in_thousands(axes.xaxis, axes.yaxis)
    label_axes(
        axes,
        title="Length of the videos",
        subtitle=f"{_count(counts.num_videos, 'video')}, {_count(counts.num_frames, 'frame')}; "
        f"a bar is {_count(width, 'frame')} wide",
        x="frames (one a second)",
        y="videos",
    )


def _note(axes: Axes, text: str, place: tuple[float, float], **style: Any) -> None:
    axes.annotate(text, place, textcoords="offset points", color=GREY, in_layout=False, **style)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
