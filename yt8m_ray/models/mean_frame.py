"""Classifiers of a clip's mean frame: logistic regression and a mixture of experts (the starter code's)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from yt8m_ray.components import MODELS
from yt8m_ray.components.heads import LogisticFields
from yt8m_ray.components.models import FrameLogisticConfig, LogisticConfig, MoEConfig
from yt8m_ray.models.base import Model
from yt8m_ray.models.heads import LogisticHead, MoEHead
from yt8m_ray.models.layers import masked_mean


class MeanFrameModel(Model):
    """A head on the mean frame; a video-level record is a clip of one frame."""

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return masked_mean(frames, num_frames)


# The published code has two models of one formula, for records of either level.
@MODELS.register("logistic", LogisticConfig)
@MODELS.register("frame_logistic", FrameLogisticConfig)
class LogisticModel(MeanFrameModel):
    """sigmoid(x W + b)."""

    def __init__(self, config: LogisticFields, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        self.head = LogisticHead(config, input_dim=self.frame_dim, num_classes=num_classes)


@MODELS.register("moe", MoEConfig)
class MoEModel(MeanFrameModel):
    """The mixture-of-experts head."""

    def __init__(self, config: MoEConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        momentum = config.batch_norm_momentum
        self.head = MoEHead(config, input_dim=self.frame_dim, num_classes=num_classes, batch_norm_momentum=momentum)
