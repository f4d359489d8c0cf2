"""The share of videos whose best class is right."""

from __future__ import annotations

from typing import Literal

from yt8m_ray.metrics.base import METRICS, Array, RankedBatch, VideoMean
from yt8m_ray.registry import ComponentConfig


class HitAt1Config(ComponentConfig):
    """Hit@1 has no options."""

    name: Literal["hit_at_1"] = "hit_at_1"


@METRICS.register("hit_at_1", HitAt1Config)
class HitAt1(VideoMean):
    """The share of videos whose most probable class is among their labels; of equal scores the lower id counts."""

    def of_videos(self, batch: RankedBatch) -> Array:
        return batch.top(1).hits
