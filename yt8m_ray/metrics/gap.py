"""Average precision of each video's best classes: GAP, the metric of the challenges, and the mean over classes."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
import pydantic

from yt8m_ray.metrics.average_precision import Array, precision_sums
from yt8m_ray.metrics.base import METRICS, Metric, RankedBatch, TopPairs
from yt8m_ray.registry import ComponentConfig


class PooledConfig(ComponentConfig):
    """A metric over the `top_k` best classes of each video."""

    top_k: int = pydantic.Field(default=20, ge=1)


class Pooled(Metric):
    """The (video, class) pairs of all videos' best `top_k` classes; at the cut the lower class id wins."""

    def __init__(self, config: PooledConfig) -> None:
        self.top_k = config.top_k
        # 5 bytes a pair of float32 scores, views that metrics of the same batches share.
        self._scores: list[Array] = []
        self._hits: list[Array] = []
        self._num_videos = 0

    def update_ranked(self, batch: RankedBatch) -> None:
        if len(batch):
            top = batch.top(self.top_k)
            self._scores.append(top.scores.ravel())
            self._hits.append(top.hits.ravel())
            self._num_videos += len(batch)
            self._add(batch, top)

    def _add(self, batch: RankedBatch, top: TopPairs) -> None:
        """Adds what the metric needs besides scores and hits."""
        raise NotImplementedError

    def merge(self, other: Self) -> None:
        self._scores += other._scores
        self._hits += other._hits
        self._num_videos += other._num_videos


class GAPConfig(PooledConfig):
    """GAP over the `top_k` best classes of each video."""

    name: Literal["gap"] = "gap"


@METRICS.register("gap", GAPConfig)
class GAP(Pooled):
    """Average precision of all pairs in one ranking by score.

    The denominator is the number of all labels, also of those outside the best classes; without any, GAP is 0.
    """

    def __init__(self, config: GAPConfig) -> None:
        super().__init__(config)
        self._num_labels = 0

    def _add(self, batch: RankedBatch, top: TopPairs) -> None:
        self._num_labels += int(batch.num_labels.sum())

    def merge(self, other: GAP) -> None:
        super().merge(other)
        self._num_labels += other._num_labels

    def compute(self) -> float:
        if not self._num_videos:
            return math.nan
        precision_sum = precision_sums(self._scores, self._hits, class_ids=None, num_classes=1)[0]
        return float(precision_sum) / max(self._num_labels, 1)


class MeanAPConfig(PooledConfig):
    """Mean AP; a class ranks the videos that have it among their `top_k` best classes."""

    name: Literal["mean_ap"] = "mean_ap"


@METRICS.register("mean_ap", MeanAPConfig)
class MeanAP(Pooled):
    """Average precision of each class over the videos that have it among their best `top_k`, averaged over classes.

    The denominator of a class is the number of all its videos, also of those outside its ranking. As in the starter
    code, classes without any video do not count; where none has one, the mean is 0.
    """

    def __init__(self, config: MeanAPConfig) -> None:
        super().__init__(config)
        # 2 bytes more a pair, for up to 65,536 classes.
        self._class_ids: list[Array] = []
        self._class_counts: Array = np.zeros(0, dtype=np.int64)
        # None until all pairs of the last batch are ranked.
        self._precisions: Array | None = None

    @property
    def class_counts(self) -> Array:
        """Videos that have each label, int64 [C]; empty before any video."""
        return self._class_counts

    @property
    def pairs(self) -> TopPairs:
        """All pairs that the classes rank, in one dimension and no order."""
        return TopPairs(*map(np.concatenate, (self._scores, self._class_ids, self._hits)))

    @property
    def num_classes(self) -> int:
        """The number of classes that the mean is over: those with a labelled video."""
        return int(np.count_nonzero(self._class_counts))

    def _add(self, batch: RankedBatch, top: TopPairs) -> None:
        self._class_ids.append(top.class_ids.ravel())
        self._add_counts(batch.class_counts)

    def merge(self, other: MeanAP) -> None:
        super().merge(other)
        self._class_ids += other._class_ids
        self._add_counts(other._class_counts)

    def _add_counts(self, class_counts: Array) -> None:
        self._precisions = None
        if not len(class_counts):
            return
        if not len(self._class_counts):
            self._class_counts = np.zeros_like(class_counts)
        if len(self._class_counts) != len(class_counts):
            raise ValueError(f"mean_ap: expected {len(self._class_counts)} classes, found {len(class_counts)}")
        # A new array, since `class_counts` hands out the old one.
        self._class_counts = self._class_counts + class_counts

    def compute(self) -> float:
        if not self._num_videos:
            return math.nan
        precisions = self.average_precisions()
        return float(precisions[self._class_counts > 0].sum()) / max(self.num_classes, 1)

    def average_precisions(self) -> Array:
        """Returns the average precision of each class, float64 [C]; NaN where no video has the label."""
        if self._precisions is None:
            sums = precision_sums(self._scores, self._hits, self._class_ids, num_classes=len(self._class_counts))
            has_videos = self._class_counts > 0
            self._precisions = np.divide(sums, self._class_counts, out=np.full(len(sums), np.nan), where=has_videos)
        return self._precisions
