"""Global average precision, the metric of the YouTube-8M challenges."""

from __future__ import annotations

import math
from typing import Literal

import pydantic

from yt8m_ray.metrics.average_precision import Array, precision_sums
from yt8m_ray.metrics.base import METRICS, Metric, RankedBatch
from yt8m_ray.registry import ComponentConfig


class GAPConfig(ComponentConfig):
    """GAP over the `top_k` best classes of each video."""

    name: Literal["gap"] = "gap"
    top_k: int = pydantic.Field(default=20, ge=1)


@METRICS.register("gap", GAPConfig)
class GAP(Metric):
    """Average precision of the (video, class) pairs of all videos' best `top_k` classes, in one ranking by score.

    The denominator is the number of all labels, also of those outside the best classes; without any, GAP is 0. At the
    cut to `top_k` the lower class id wins.
    """

    def __init__(self, config: GAPConfig) -> None:
        self.top_k = config.top_k
        # 5 bytes a pair of float32 scores, views that a mean AP of the same batches shares.
        self._scores: list[Array] = []
        self._hits: list[Array] = []
        self._num_labels = 0
        self._num_videos = 0

    def update_ranked(self, batch: RankedBatch) -> None:
        if not len(batch):
            return
        top = batch.top(self.top_k)
        self._scores.append(top.scores.ravel())
        self._hits.append(top.hits.ravel())
        self._num_labels += int(batch.num_labels.sum())
        self._num_videos += len(batch)

    def merge(self, other: GAP) -> None:
        self._scores += other._scores
        self._hits += other._hits
        self._num_labels += other._num_labels
        self._num_videos += other._num_videos

    def compute(self) -> float:
        if not self._num_videos:
            return math.nan
        precision_sum = precision_sums(self._scores, self._hits, class_ids=None, num_classes=1)[0]
        return float(precision_sum) / max(self._num_labels, 1)
