"""How alike the predictions of several files are: files that err alike gain little from each other.

As the published `predCorr` means it: the scores of two files for a video are two vectors over the classes that either
lists, 0 where one does not, less a base that a class's mean score is near to; the cosine of the two is averaged over
the videos that both have. The published code looks at the classes of the first file alone, so that its matrix is not
symmetric.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from yt8m_ray.inference.predictions.align_files import AlignedVideo

BASE = 2.12e-4
"""Of the published tool."""


class Correlation:
    """The correlations of K files over the videos that were added."""

    def __init__(self, num_files: int) -> None:
        self._sums = [[0.0] * num_files for _ in range(num_files)]
        self._counts = [[0] * num_files for _ in range(num_files)]

    def add(self, video: AlignedVideo) -> None:
        """Adds a video."""
        files = [
            (number, dict(zip(row.class_ids, row.scores, strict=True)))
            for number, row in enumerate(video.rows)
            if row is not None
        ]
        for (one, scores), (other, others) in itertools.combinations_with_replacement(files, 2):
            value = _cosine(scores, others)
            for first, second in {(one, other), (other, one)}:
                self._sums[first][second] += value
                self._counts[first][second] += 1

    def matrix(self) -> list[list[float | None]]:
        """Returns the correlations [K, K]; None for two files without a video in common."""
        return [
            [total / count if count else None for total, count in zip(sums, counts, strict=True)]
            for sums, counts in zip(self._sums, self._counts, strict=True)
        ]


def _cosine(scores: Mapping[int, float], others: Mapping[int, float]) -> float:
    square = other_square = dot = 0.0
    for class_id in scores.keys() | others.keys():
        value, other = scores.get(class_id, 0.0) - BASE, others.get(class_id, 0.0) - BASE
        square += value * value
        other_square += other * other
        dot += value * other
    product = square * other_square
    return dot / math.sqrt(product) if product > 0 else 0.0


def correlation_table(paths: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> str:
    """Returns the matrix as text, a line a file, the files of the columns by number."""
    width = max(map(len, paths))
    lines = [" ".join([" " * (width + 4), *(f"{number:7d}" for number in range(1, len(paths) + 1))])]
    for number, (path, row) in enumerate(zip(paths, matrix, strict=True), start=1):
        cells = (f"{math.nan if value is None else value:7.4f}" for value in row)
        lines.append(" ".join([f"{number:3d} {path:{width}s}", *cells]))
    return "\n".join(lines)
