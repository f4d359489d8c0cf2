"""The share of videos whose best class is right."""

from __future__ import annotations

import math
from typing import Literal

from yt8m_ray.metrics.base import METRICS, Metric, RankedBatch
from yt8m_ray.registry import ComponentConfig


class HitAt1Config(ComponentConfig):
    """Hit@1 has no options."""

    name: Literal["hit_at_1"] = "hit_at_1"


@METRICS.register("hit_at_1", HitAt1Config)
class HitAt1(Metric):
    """The share of videos whose most probable class is among their labels; of equal scores the lower id counts."""

    def __init__(self, config: HitAt1Config) -> None:
        self._num_hits = 0
        self._num_videos = 0

    def update_ranked(self, batch: RankedBatch) -> None:
        self._num_hits += int(batch.top(1).hits.sum())
        self._num_videos += len(batch)

    def merge(self, other: HitAt1) -> None:
        self._num_hits += other._num_hits
        self._num_videos += other._num_videos

    def compute(self) -> float:
        return self._num_hits / self._num_videos if self._num_videos else math.nan
