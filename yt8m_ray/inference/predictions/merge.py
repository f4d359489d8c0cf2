"""Prediction files -> one file of their weighted means, its score against ground truth, and how alike they are."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.align_files import AlignedVideo, Alignment
from yt8m_ray.inference.predictions.ground_truth import TruthScore, read_truth
from yt8m_ray.inference.predictions.reader import open_predictions
from yt8m_ray.inference.predictions.rows import Row
from yt8m_ray.inference.predictions.writer import SubmissionWriter
from yt8m_ray.wording import counted

logger = logging.getLogger(__name__)

Mean = Literal["arithmetic", "geometric"]
# What a video does that a file lacks: the others' weights count alone, or the merge fails.
OnMissing = Literal["average", "fail"]

# Least score in a geometric mean, and what a class that a file does not list counts there: with 0 it could never win.
GEOMETRIC_FLOOR = 1e-4
# Of the published tool; a class's mean score is near to it.
CORRELATION_BASE = 2.12e-4
# Written at once: a row group of a Parquet file.
_BLOCK_VIDEOS = 4096


def merge_predictions(
    paths: Sequence[str],
    *,
    output: str | None = None,
    weights: Sequence[float] | None = None,
    mean: Mean = "arithmetic",
    top_k: int = 20,
    missing: OnMissing = "average",
    truth: str | None = None,
    has_correlation: bool = False,
) -> dict[str, Any]:
    """Writes the means of prediction files; returns scores with `truth`, and `correlation` with `has_correlation`.

    Args:
        paths: Prediction files; one alone is converted or scored.
        output: The file to write, `.csv`, `.csv.gz` or `.parquet`, its videos in the order of `Alignment`.
        weights: One a file, relative to each other; None for equal ones. A file with weight 0 is not read.
        mean: As in `weighted_mean`.
        top_k: Most classes of a video; all scores are of these.
        truth: A CSV of ground truth to score the merged predictions with, before their scores are rounded.

    Raises:
        ConfigError: there is no such file, or the weights are not numbers from 0 on, one a file.
        ValueError: a file is not sound, or lacks a video under `fail`.
    """
    started = time.monotonic()
    paths, shares = _weighted(paths, weights)
    files = [open_predictions(path) for path in paths]
    correlation = Correlation(len(paths)) if has_correlation else None
    score = None if truth is None else TruthScore(read_truth(truth))
    with contextlib.ExitStack() as stack:
        # Before the files are read: where it cannot be written, that is known at once.
        writer = None if output is None else stack.enter_context(SubmissionWriter(output))
        alignment = Alignment(files)
        remarks = alignment.missing()
        if remarks and missing == "fail":
            raise ValueError("; ".join(remarks))
        for remark in remarks:
            logger.warning("%s; the mean is that of the other files", remark)
        videos = iter(alignment)
        while block := list(itertools.islice(videos, _BLOCK_VIDEOS)):
            rows = [weighted_mean(video, shares, mean=mean, top_k=top_k) for video in block]
            if writer is not None:
                writer.write_rows(rows)
            for video, row in zip(block, rows, strict=True):
                if score is not None:
                    score.add(row)
                if correlation is not None:
                    correlation.add(video)
        document: dict[str, Any] = {} if score is None else score.document()
    logger.info("%d videos of %s in %.1f s", len(alignment), counted(len(paths), "file"), time.monotonic() - started)
    if correlation is not None:
        matrix = correlation.matrix()
        logger.info("correlation of the files:\n%s", correlation_table(paths, matrix))
        document["correlation"] = {"files": list(paths), "matrix": matrix}
    return document


def _weighted(paths: Sequence[str], weights: Sequence[float] | None) -> tuple[list[str], list[float]]:
    """Returns the files with a weight above 0, and those weights divided by their sum."""
    given = [1.0] * len(paths) if weights is None else list(weights)
    if len(given) != len(paths):
        raise ConfigError(f"weights: expected one a file, {len(paths)}, found {len(given)}")
    if not all(0 <= weight < math.inf for weight in given) or not any(given):
        found = " ".join(f"{weight:g}" for weight in given)
        raise ConfigError(f"weights: expected numbers from 0 on, not all 0, found {found}")
    used, total = [], math.fsum(given)
    for path, weight in zip(paths, given, strict=True):
        if weight:
            used.append(path)
        else:
            logger.info("%s: has the weight 0 and is not read", path)
    return used, [weight / total for weight in given if weight]


def weighted_mean(video: AlignedVideo, weights: Sequence[float], *, mean: Mean, top_k: int) -> Row:
    """Returns the `top_k` classes of a video with the largest means; of equal means the lower class id comes first.

    The arithmetic mean of a class is the sum of `weight * score`, file by file, a class that a file does not list
    counting 0. The geometric mean is the product of `max(floor, score) ** weight`, a class that a file does not list
    counting the floor. For a video that files lack, the weights of the others are divided by their sum.

    Args:
        weights: One a file, with the sum 1.
    """
    present = [(weight, row) for weight, row in zip(weights, video.rows, strict=True) if row is not None]
    # Not divided where no file lacks the video: the sum of all weights may be off 1 in its last bit.
    total = 1.0 if len(present) == len(weights) else sum(weight for weight, _ in present)
    means: dict[int, float] = {}
    for weight, row in present:
        share = weight / total
        scores = row.scores
        if mean == "geometric":  # logarithms above the floor's, so that a class that is not listed adds 0
            scores = [math.log(max(score, GEOMETRIC_FLOOR) / GEOMETRIC_FLOOR) for score in scores]
        for class_id, score in zip(row.class_ids, scores, strict=True):
            means[class_id] = means.get(class_id, 0.0) + share * score
    if mean == "geometric":
        means = {class_id: GEOMETRIC_FLOOR * math.exp(value) for class_id, value in means.items()}
    # Python's sort is stable, reversed too: of equal means the lower id stays first.
    best = sorted(sorted(means), key=means.__getitem__, reverse=True)[:top_k]
    return Row(video.video_id, best, [means[class_id] for class_id in best])


class Correlation:
    """How alike the scores of K files are, as the published `predCorr` means it, over the videos that were added.

    The scores of two files for a video are two vectors over the classes that either lists, 0 where one does not, less a
    base; their cosine is averaged over the videos that both files have.
    """

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
            self._sums[one, other] += _cosine(scores, others)
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
        value, other = scores.get(class_id, 0.0) - CORRELATION_BASE, others.get(class_id, 0.0) - CORRELATION_BASE
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
