"""How alike the predictions of several files are: files that err alike gain little from each other.

As the published `predCorr` means it: the scores of two files for a video are two vectors over the classes that either
lists, 0 where one does not, less a base that a class's mean score is near to; the cosine of the two is averaged over
the videos that both have. The published code looks at the classes of the first file alone, so that its matrix is not
symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from yt8m_ray.compiled import compiled
from yt8m_ray.inference.predictions.align_files import AlignedBlock
from yt8m_ray.inference.predictions.rows import MOST_CLASSES

BASE = 2.12e-4
"""Of the published tool."""


class Correlation:
    """The correlations of K files over the blocks that were added."""

    def __init__(self, num_files: int) -> None:
        self._sums = np.zeros((num_files, num_files))
        self._counts = np.zeros((num_files, num_files), np.int64)
        self._centred = np.zeros(MOST_CLASSES)

    def add(self, block: AlignedBlock) -> None:
        """Adds the videos of a block."""
        rows = block.rows
        _add(rows.class_ids, rows.scores, rows.bounds, block.places, self._centred, self._sums, self._counts)

    def matrix(self) -> list[list[float | None]]:
        """Returns the correlations [K, K]; None for two files without a video in common."""
        pairs = zip(self._sums.tolist(), self._counts.tolist(), strict=True)
        return [
            [total / count if count else None for total, count in zip(sums, counts, strict=True)]
            for sums, counts in pairs
        ]


def correlation_table(paths: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> str:
    """Returns the matrix as text, a line a file, the files of the columns by number."""
    width = max(map(len, paths))
    lines = [" ".join([" " * (width + 4), *(f"{number:7d}" for number in range(1, len(paths) + 1))])]
    for number, (path, row) in enumerate(zip(paths, matrix, strict=True), start=1):
        cells = (f"{math.nan if value is None else value:7.4f}" for value in row)
        lines.append(" ".join([f"{number:3d} {path:{width}s}", *cells]))
    return "\n".join(lines)


@compiled
def _cosine(
    class_ids: np.ndarray, scores: np.ndarray, first: tuple[int, int], second: tuple[int, int], centred: np.ndarray
) -> float:
    """Returns the correlation of the pairs in two ranges; `centred`, all 0, is as it was afterwards."""
    square = other_square = dot = 0.0
    for pair in range(first[0], first[1]):
        value = scores[pair] - BASE
        # What either file does not list is -BASE there; where both do, the second loop takes that back.
        centred[class_ids[pair]] = value if value != 0 else np.nan
        square += value * value
        other_square += BASE * BASE
        dot -= value * BASE
    for pair in range(second[0], second[1]):
        other = scores[pair] - BASE
        other_square += other * other
        value = centred[class_ids[pair]]
        if value == 0:
            square += BASE * BASE
            dot -= other * BASE
        else:
            value = 0.0 if np.isnan(value) else value
            other_square -= BASE * BASE
            dot += value * other + value * BASE
    for pair in range(first[0], first[1]):
        centred[class_ids[pair]] = 0
    product = square * other_square
    return dot / math.sqrt(product) if product > 0 else 0.0


@compiled
def _add(
    class_ids: np.ndarray,
    scores: np.ndarray,
    bounds: np.ndarray,
    files: np.ndarray,
    centred: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
) -> None:
    for video in range(files.shape[1]):
        for one in range(len(files)):
            row = files[one, video]
            for other in range(one, len(files)):
                other_row = files[other, video]
                if row < 0 or other_row < 0:
                    continue
                first, second = (bounds[row], bounds[row + 1]), (bounds[other_row], bounds[other_row + 1])
                value = _cosine(class_ids, scores, first, second, centred)
                sums[one, other] += value
                counts[one, other] += 1
                if other > one:
                    sums[other, one] += value
                    counts[other, one] += 1
