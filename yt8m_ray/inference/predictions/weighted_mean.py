"""The weighted mean of a video's scores in several files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from yt8m_ray.inference.predictions.align_files import AlignedVideo
from yt8m_ray.inference.predictions.rows import Row

Mean = Literal["arithmetic", "geometric"]

# Least score in a geometric mean, and what a class that a file does not list counts there: with 0 it could never win.
GEOMETRIC_FLOOR = 1e-4


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
        scores = map(_above_floor, row.scores) if mean == "geometric" else row.scores
        for class_id, score in zip(row.class_ids, scores, strict=True):
            means[class_id] = means.get(class_id, 0.0) + share * score
    if mean == "geometric":
        means = {class_id: GEOMETRIC_FLOOR * math.exp(value) for class_id, value in means.items()}
    # Python's sort is stable, reversed too: of equal means the lower id stays first.
    best = sorted(sorted(means), key=means.__getitem__, reverse=True)[:top_k]
    return Row(video.video_id, best, [means[class_id] for class_id in best])


def _above_floor(score: float) -> float:
    # Logarithms above the floor's, so that a class that is not listed adds 0.
    return math.log(max(score, GEOMETRIC_FLOOR) / GEOMETRIC_FLOOR)


def normalized(weights: Sequence[float]) -> list[float]:
    """Returns the weights divided by their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]
