"""Prediction files -> one file of their weighted means, its score against ground truth, and how alike they are."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Sequence
from typing import Any, Literal

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.align_files import AlignedVideo, Alignment
from yt8m_ray.inference.predictions.correlation import Correlation, correlation_table
from yt8m_ray.inference.predictions.ground_truth import TruthScore, read_truth
from yt8m_ray.inference.predictions.reader import open_predictions
from yt8m_ray.inference.predictions.rows import Row
from yt8m_ray.inference.predictions.writer import SubmissionWriter

logger = logging.getLogger(__name__)

Mean = Literal["arithmetic", "geometric"]

# Least score in a geometric mean, and what a class that a file does not list counts there: with 0 it could never win.
GEOMETRIC_FLOOR = 1e-4

# Written at once: a row group of a Parquet file.
_BLOCK_VIDEOS = 4096

# What a video does that a file lacks: the others' weights count alone, or the merge fails.
OnMissing = Literal["average", "fail"]


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
    logger.info("%d videos of %d files in %.1f s", len(alignment), len(paths), time.monotonic() - started)
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
