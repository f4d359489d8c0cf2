"""Mean over classes of the average precision."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pydantic

from yt8m_ray.metrics.average_precision import Array, precision_sums
from yt8m_ray.metrics.base import METRICS, Metric, RankedBatch, TopPairs
from yt8m_ray.registry import ComponentConfig


class MeanAPConfig(ComponentConfig):
    """Mean AP; a class ranks the videos that have it among their `top_k` best classes."""

    name: Literal["mean_ap"] = "mean_ap"
    top_k: int = pydantic.Field(default=20, ge=1)


@METRICS.register("mean_ap", MeanAPConfig)
class MeanAP(Metric):
    """Average precision of each class over the videos that have it among their best `top_k`, averaged over classes.

    The denominator of a class is the number of all its videos, also of those outside its ranking. As in the starter
    code, classes without any video do not count; where none has one, the mean is 0.
    """

    def __init__(self, config: MeanAPConfig) -> None:
        self.top_k = config.top_k
        # 7 bytes a pair of float32 scores, for up to 65,536 classes.
        self._scores: list[Array] = []
        self._class_ids: list[Array] = []
        self._hits: list[Array] = []
        self._class_counts: Array = np.zeros(0, dtype=np.int64)
        self._num_videos = 0
        self._precisions: Array | None = None  # until the next batch

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

    def update_ranked(self, batch: RankedBatch) -> None:
        if not len(batch):
            return
        top = batch.top(self.top_k)
        self._scores.append(top.scores.ravel())
        self._class_ids.append(top.class_ids.ravel())
        self._hits.append(top.hits.ravel())
        self._add_counts(batch.class_counts)
        self._num_videos += len(batch)
        self._precisions = None

    def merge(self, other: MeanAP) -> None:
        self._scores += other._scores
        self._class_ids += other._class_ids
        self._hits += other._hits
        self._add_counts(other._class_counts)
        self._num_videos += other._num_videos
        self._precisions = None

    def _add_counts(self, class_counts: Array) -> None:
        if not len(class_counts):
            return
        if not len(self._class_counts):
            self._class_counts = np.zeros_like(class_counts)
        if len(self._class_counts) != len(class_counts):
            raise ValueError(f"mean_ap: expected {len(self._class_counts)} classes, found {len(class_counts)}")
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
