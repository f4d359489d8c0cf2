"""Precision at equal recall rate."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from yt8m_ray.metrics.base import METRICS, Metric, RankedBatch
from yt8m_ray.registry import ComponentConfig


class PERRConfig(ComponentConfig):
    """PERR has no options."""

    name: Literal["perr"] = "perr"


@METRICS.register("perr", PERRConfig)
class PERR(Metric):
    """Mean over videos of the precision of a video's best L classes, L being its number of labels.

    As published, a class with score 0 is no hit, and a video without labels has precision 0 and counts. At the cut to L
    the lower class id wins.
    """

    def __init__(self, config: PERRConfig) -> None:
        self._precision_sum = 0.0
        self._num_videos = 0

    def update_ranked(self, batch: RankedBatch) -> None:
        if not len(batch):
            return
        depth = int(batch.num_labels.max())
        top = batch.top(max(depth, 1))
        is_within = np.arange(top.hits.shape[1]) < batch.num_labels[:, None]
        num_hits = (top.hits & is_within & (top.scores > 0)).sum(axis=1)
        self._precision_sum += float((num_hits / np.maximum(batch.num_labels, 1)).sum())
        self._num_videos += len(batch)

    def merge(self, other: PERR) -> None:
        self._precision_sum += other._precision_sum
        self._num_videos += other._num_videos

    def compute(self) -> float:
        return self._precision_sum / self._num_videos if self._num_videos else math.nan
