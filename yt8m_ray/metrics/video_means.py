"""Metrics that are means over videos: Hit@1, and the precision at equal recall rate."""

from __future__ import annotations

import abc
import math
from typing import Literal, Self

import numpy as np

from yt8m_ray.metrics.base import METRICS, Array, Metric, RankedBatch
from yt8m_ray.registry import ComponentConfig


class VideoMean(Metric):
    """A mean over videos."""

    def __init__(self, config: ComponentConfig) -> None:
        self._sum = 0.0
        self._num_videos = 0

    @abc.abstractmethod
    def of_videos(self, batch: RankedBatch) -> Array:
        """Returns the value of each video of a batch, [B]; B > 0."""

    def update_ranked(self, batch: RankedBatch) -> None:
        if len(batch):
            self._sum += float(self.of_videos(batch).sum())
            self._num_videos += len(batch)

    def merge(self, other: Self) -> None:
        self._sum += other._sum
        self._num_videos += other._num_videos

    def compute(self) -> float:
        return self._sum / self._num_videos if self._num_videos else math.nan


class HitAt1Config(ComponentConfig):
    """Hit@1 has no options."""

    name: Literal["hit_at_1"] = "hit_at_1"


@METRICS.register("hit_at_1", HitAt1Config)
class HitAt1(VideoMean):
    """The share of videos whose most probable class is among their labels; of equal scores the lower id counts."""

    def of_videos(self, batch: RankedBatch) -> Array:
        return batch.top(1).hits


class PERRConfig(ComponentConfig):
    """PERR has no options."""

    name: Literal["perr"] = "perr"


@METRICS.register("perr", PERRConfig)
class PERR(VideoMean):
    """Mean over videos of the precision of a video's best L classes, L being its number of labels.

    At the cut to L the lower class id wins.
    """

    def of_videos(self, batch: RankedBatch) -> Array:
        top = batch.top(max(int(batch.num_labels.max()), 1))
        is_within = np.arange(top.hits.shape[1]) < batch.num_labels[:, None]
        # As published, a class with score 0 is no hit, and a video without labels has precision 0 and counts.
        num_hits = (top.hits & is_within & (top.scores > 0)).sum(axis=1)
        precisions: Array = num_hits / np.maximum(batch.num_labels, 1)
        return precisions
