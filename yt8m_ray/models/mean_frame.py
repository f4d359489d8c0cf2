"""Classifiers of a clip's mean frame: logistic regression and a mixture of experts (the starter code's)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch

from yt8m_ray.models.base import MODELS, Model
from yt8m_ray.models.heads import LogisticFields, LogisticHead, MoEFields, MoEHead
from yt8m_ray.models.layers import BATCH_NORM_MOMENTUM, masked_mean


class MeanFrameModel(Model):
    """A head on the mean frame; a video-level record is a clip of one frame."""

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return masked_mean(frames, num_frames)


class LogisticConfig(LogisticFields):
    """The starter code's LogisticModel, for video-level records."""

    name: Literal["logistic"] = "logistic"


class FrameLogisticConfig(LogisticFields):
    """The starter code's FrameLevelLogisticModel, for frame-level records."""

    name: Literal["frame_logistic"] = "frame_logistic"


# The published code has two models of one formula, for records of either level.
@MODELS.register("logistic", LogisticConfig)
@MODELS.register("frame_logistic", FrameLogisticConfig)
class LogisticModel(MeanFrameModel):
    """sigmoid(x W + b)."""

    def __init__(self, config: LogisticFields, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        self.head = LogisticHead(config, input_dim=self.frame_dim, num_classes=num_classes)


class MoEConfig(MoEFields):
    """The starter code's MoeModel, with the 2018 winner's extensions."""

    name: Literal["moe"] = "moe"
    batch_norm_momentum: float = pydantic.Field(default=BATCH_NORM_MOMENTUM, gt=0, le=1)


@MODELS.register("moe", MoEConfig)
class MoEModel(MeanFrameModel):
    """The mixture-of-experts head."""

    def __init__(self, config: MoEConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        momentum = config.batch_norm_momentum
        self.head = MoEHead(config, input_dim=self.frame_dim, num_classes=num_classes, batch_norm_momentum=momentum)
