"""Logistic regression on the mean of a clip's frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from yt8m_ray.models.base import MODELS, Model
from yt8m_ray.models.heads import LogisticFields, LogisticHead
from yt8m_ray.models.layers import masked_mean


class LogisticConfig(LogisticFields):
    """The starter code's LogisticModel, for video-level records."""

    name: Literal["logistic"] = "logistic"


class FrameLogisticConfig(LogisticFields):
    """The starter code's FrameLevelLogisticModel, for frame-level records."""

    name: Literal["frame_logistic"] = "frame_logistic"


@MODELS.register("logistic", LogisticConfig)
@MODELS.register("frame_logistic", FrameLogisticConfig)
class LogisticModel(Model):
    """sigmoid(mean of the frames W + b); a video-level record is a clip of one frame, hence both names."""

    def __init__(self, config: LogisticFields, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        self.head = LogisticHead(config, input_dim=self.frame_dim, num_classes=num_classes)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return masked_mean(frames, num_frames)
