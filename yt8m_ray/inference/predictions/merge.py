"""Prediction files -> one file of their means, its score against ground truth, and how alike they are: one pass.

Memory holds blocks, and for each video a hash, or tens of bytes where files differ in their order; for a score also the
labels, and 8 bytes for each pair.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.align_files import Alignment
from yt8m_ray.inference.predictions.correlation import Correlation, correlation_table
from yt8m_ray.inference.predictions.ground_truth import read_truth
from yt8m_ray.inference.predictions.reader import open_predictions
from yt8m_ray.inference.predictions.weighted_mean import Mean, Mixer, normalized
from yt8m_ray.inference.predictions.writer import SubmissionWriter

if TYPE_CHECKING:
    from yt8m_ray.inference.predictions.ground_truth_score import TruthScore

logger = logging.getLogger(__name__)

OnMissing = Literal["average", "fail"]
"""What a video does that a file lacks: the others' weights count alone, or the merge fails."""


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
    """Returns what was asked for besides the file: scores, `correlation`; nothing where neither was.

    Videos are in the order of the first file, then those that only later files have, in theirs.

    Args:
        paths: Prediction files; one alone is converted, or scored.
        output: The file to write, `.csv`, `.csv.gz` or `.parquet`; it appears when it is complete.
        weights: One a file, relative to each other; None for equal ones. A file with weight 0 is not read.
        mean: As in `Mixer`.
        top_k: Most classes of a video; all scores are of these.
        missing: What a video does that a file lacks.
        truth: A CSV of ground truth to score the merged predictions with, before their scores are rounded.
        has_correlation: Whether to compute the correlations of the files.

    Raises:
        ConfigError: there is no such file, or the weights are none.
        ValueError: a file is not sound, or lacks a video under `fail`.
    """
    started = time.monotonic()
    paths, shares = _weighted(paths, weights)
    alignment = Alignment([open_predictions(path) for path in paths])
    mixer = Mixer(shares, mean=mean, top_k=top_k)
    correlation = Correlation(len(paths)) if has_correlation else None
    score = None if truth is None else _score(truth)
    with contextlib.ExitStack() as stack:
        writer = None if output is None else stack.enter_context(SubmissionWriter(output))
        for block in alignment.blocks():
            if correlation is not None:
                correlation.add(block)
            rows = mixer.mix(block)
            if writer is not None:
                writer.write_rows(rows)
            if score is not None:
                score.add(rows)
        _tell_missing(alignment, missing)
        document: dict[str, Any] = {} if score is None else score.document()
    elapsed = time.monotonic() - started
    logger.info("%d videos of %d files in %.1f s", alignment.num_videos, len(paths), elapsed)
    if correlation is not None:
        matrix = correlation.matrix()
        logger.info("correlation of the files:\n%s", correlation_table(paths, matrix))
        document["correlation"] = {"files": list(paths), "matrix": matrix}
    return document


def _weighted(paths: Sequence[str], weights: Sequence[float] | None) -> tuple[list[str], list[float]]:
    """Returns the files with a weight above 0, and the weights divided by their sum."""
    given = [1.0] * len(paths) if weights is None else list(weights)
    if len(given) != len(paths):
        raise ConfigError(f"--weights: expected one a file, {len(paths)}, found {len(given)}")
    if not all(0 <= weight < math.inf for weight in given) or not any(given):
        found = " ".join(f"{weight:g}" for weight in given)
        raise ConfigError(f"--weights: expected numbers from 0 on, not all 0, found {found}")
    for path, weight in zip(paths, given, strict=True):
        if not weight:
            logger.info("%s: has the weight 0 and is not read", path)
    used = [(path, weight) for path, weight in zip(paths, given, strict=True) if weight]
    return [path for path, _ in used], normalized([weight for _, weight in used])


def _score(truth: str) -> TruthScore:
    from yt8m_ray.inference.predictions.ground_truth_score import TruthScore  # imports torch, which takes a second

    return TruthScore(read_truth(truth))


def _tell_missing(alignment: Alignment, on_missing: OnMissing) -> None:
    """Names the videos that files lack; raises where none may be missing."""
    remarks = [
        f"{missing.path}: {missing.num_videos} of {alignment.num_videos} videos are missing: "
        f"{', '.join(missing.first)}{', ...' if missing.num_videos > len(missing.first) else ''}"
        for missing in alignment.missing
        if missing.num_videos
    ]
    if remarks and on_missing == "fail":
        raise ValueError("; ".join(remarks))
    for remark in remarks:
        logger.warning("%s; the mean is that of the other files", remark)
