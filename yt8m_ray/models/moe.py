"""A mixture of logistic experts on the mean of a clip's frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch

from yt8m_ray.models.base import MODELS, Model
from yt8m_ray.models.heads import MoEFields, MoEHead
from yt8m_ray.models.layers import BATCH_NORM_MOMENTUM, masked_mean


class MoEConfig(MoEFields):
    """The starter code's MoeModel, with the 2018 winner's extensions."""

    name: Literal["moe"] = "moe"
    batch_norm_momentum: float = pydantic.Field(default=BATCH_NORM_MOMENTUM, gt=0, le=1)


@MODELS.register("moe", MoEConfig)
class MoEModel(Model):
    """The mixture-of-experts head on video-level records, or on the mean of frame-level ones."""

    def __init__(self, config: MoEConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        self.head = MoEHead(
            config,
            input_dim=self.frame_dim,
            num_classes=num_classes,
            batch_norm_momentum=config.batch_norm_momentum,
        )

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return masked_mean(frames, num_frames)
