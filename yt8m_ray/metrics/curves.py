"""Precision-recall curves and calibration from the pairs of a mean AP."""

from __future__ import annotations

import numpy as np

from yt8m_ray.metrics.base import Array
from yt8m_ray.metrics.gap import MeanAP

NUM_POINTS = 200  # at most, of a curve
NUM_CLASSES = 5  # with a curve, of the best and of the worst

# The average precision of a class with fewer is chance.
_LEAST_VIDEOS = 10
_NUM_BINS = 20


def class_arrays(metric: MeanAP) -> dict[str, Array]:
    """Returns the AP of each class, and the curves of the best and the worst ones.

    class_ap is float32 [C] (NaN where no video has the label), class_num_videos int32 [C], curve_class_ids int32 [K] by
    falling AP, curve_recall and curve_precision are float32 [K, NUM_POINTS], padded with NaN.
    """
    precisions, counts = metric.average_precisions(), metric.class_counts
    chosen = best_and_worst(precisions, counts)
    curves = np.full((2, len(chosen), NUM_POINTS), np.nan, np.float32)
    pairs = metric.pairs
    is_chosen = np.zeros(len(counts), bool)
    is_chosen[chosen] = True
    places = np.flatnonzero(is_chosen[pairs.class_ids])
    scores, class_ids, hits = pairs.scores[places], pairs.class_ids[places], pairs.hits[places]
    for row, class_id in enumerate(chosen):
        mine = class_ids == class_id
        curve = precision_recall(scores[mine], hits[mine], int(counts[class_id]))
        curves[:, row, : curve.shape[1]] = curve
    return {
        "class_ap": precisions.astype(np.float32),
        "class_num_videos": counts.astype(np.int32),
        "curve_class_ids": chosen.astype(np.int32),
        "curve_recall": curves[0],
        "curve_precision": curves[1],
    }


def best_and_worst(precisions: Array, counts: Array) -> Array:
    """Returns the NUM_CLASSES best and as many worst classes, best first, those with ten videos if there are enough."""
    candidates = np.flatnonzero(counts >= _LEAST_VIDEOS)
    if len(candidates) < 2 * NUM_CLASSES:
        candidates = np.flatnonzero(counts > 0)
    order = candidates[np.argsort(-precisions[candidates], kind="stable")]
    if len(order) <= 2 * NUM_CLASSES:
        return order
    return np.concatenate([order[:NUM_CLASSES], order[-NUM_CLASSES:]])


def precision_recall(scores: Array, hits: Array, num_videos: int) -> Array:
    """Returns recall and precision at the distinct scores, highest first, [2, up to NUM_POINTS], evenly by rank."""
    # Recall ends below 1 where videos with the label do not have the class among their best.
    order = np.argsort(-scores, kind="stable")
    # Equal scores are one point of the curve, the last of them.
    is_last = np.append(np.diff(scores[order]) != 0, True)[: len(order)]
    ranks = np.flatnonzero(is_last) + 1
    if len(ranks) > NUM_POINTS:
        ranks = ranks[np.linspace(0, len(ranks) - 1, NUM_POINTS).round().astype(int)]
    num_hits = np.cumsum(hits[order])[ranks - 1]
    return np.stack([num_hits / num_videos, num_hits / ranks])


def calibration(metric: MeanAP) -> dict[str, Array]:
    """Returns how often a score is a label, over the best 20 classes of each video, in 20 equal bins of 0..1.

    calibration_num_pairs is int64, calibration_score and calibration_frequency are float32 means (NaN without pairs).
    """
    pairs = metric.pairs
    bins = np.minimum((pairs.scores * np.float32(_NUM_BINS)).astype(np.uint8), _NUM_BINS - 1)
    num_pairs = np.bincount(bins, minlength=_NUM_BINS)
    score_sums = np.bincount(bins, weights=pairs.scores, minlength=_NUM_BINS)
    num_hits = np.bincount(bins[pairs.hits], minlength=_NUM_BINS)
    # A bin without pairs has no mean.
    with np.errstate(invalid="ignore"):
        return {
            "calibration_num_pairs": num_pairs.astype(np.int64),
            "calibration_score": (score_sums / num_pairs).astype(np.float32),
            "calibration_frequency": (num_hits / num_pairs).astype(np.float32),
        }
