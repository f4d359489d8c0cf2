"""Precision at equal recall rate."""

from __future__ import annotations

from typing import Literal

import numpy as np

from yt8m_ray.metrics.base import METRICS, Array, RankedBatch, VideoMean
from yt8m_ray.registry import ComponentConfig


class PERRConfig(ComponentConfig):
    """PERR has no options."""

    name: Literal["perr"] = "perr"


@METRICS.register("perr", PERRConfig)
class PERR(VideoMean):
    """Mean over videos of the precision of a video's best L classes, L being its number of labels.

    As published, a class with score 0 is no hit, and a video without labels has precision 0 and counts. At the cut to L
    the lower class id wins.
    """

    def of_videos(self, batch: RankedBatch) -> Array:
        top = batch.top(max(int(batch.num_labels.max()), 1))
        is_within = np.arange(top.hits.shape[1]) < batch.num_labels[:, None]
        num_hits = (top.hits & is_within & (top.scores > 0)).sum(axis=1)
        precisions: Array = num_hits / np.maximum(batch.num_labels, 1)
        return precisions
