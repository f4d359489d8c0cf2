"""How alike the predictions of several files are, as the published `predCorr` means it.

The scores of two files for a video are two vectors over the classes that either lists, 0 where one does not, less a
base; their cosine is averaged over the videos that both files have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from yt8m_ray.inference.predictions.align_files import AlignedVideo

# Of the published tool; a class's mean score is near to it.
BASE = 2.12e-4


class Correlation:
    """The correlations of K files over the videos that were added."""

    def __init__(self, num_files: int) -> None:
        self._sums = np.zeros((num_files, num_files))
        self._counts = np.zeros((num_files, num_files), np.int64)

    def add(self, video: AlignedVideo) -> None:
        """Adds a video."""
        files = [
            (number, dict(zip(row.class_ids, row.scores, strict=True)))
            for number, row in enumerate(video.rows)
            if row is not None
        ]
        for (one, scores), (other, others) in itertools.combinations_with_replacement(files, 2):
            value = _cosine(scores, others)
            self._sums[one, other] += value
            self._counts[one, other] += 1

    def matrix(self) -> list[list[float | None]]:
        """Returns the correlations [K, K]; None for two files without a video in common."""
        means = np.divide(self._sums, self._counts, out=np.full_like(self._sums, np.nan), where=self._counts > 0)
        # Only the half with one <= other was added to.
        symmetric = np.where(self._counts.T > 0, means.T, means)
        return [[None if math.isnan(mean) else mean for mean in row] for row in symmetric.tolist()]


def _cosine(scores: Mapping[int, float], others: Mapping[int, float]) -> float:
    # Over the classes of both, where the published code takes those of the first file: its matrix is not symmetric.
    square = other_square = dot = 0.0
    for class_id in scores.keys() | others.keys():
        value, other = scores.get(class_id, 0.0) - BASE, others.get(class_id, 0.0) - BASE
        square += value * value
        other_square += other * other
        dot += value * other
    product = square * other_square  # 0 where all scores of a file are the base: no direction to compare
    return dot / math.sqrt(product) if product > 0 else 0.0


def correlation_table(paths: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> str:
    """Returns the matrix as text, a line a file; columns are named by the files' numbers."""
    width = max(map(len, paths))
    lines = [" ".join([" " * (width + 4), *(f"{number:7d}" for number in range(1, len(paths) + 1))])]
    for number, (path, row) in enumerate(zip(paths, matrix, strict=True), start=1):
        cells = (f"{math.nan if value is None else value:7.4f}" for value in row)
        lines.append(" ".join([f"{number:3d} {path:{width}s}", *cells]))
    return "\n".join(lines)
