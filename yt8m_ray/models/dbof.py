"""The deep bag of frames (Abu-El-Haija et al. 2016, arXiv:1609.08675), the starter code's DbofModel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import MODELS
from yt8m_ray.components.models import Activation, BagFields, DBoFConfig
from yt8m_ray.models.base import FrameModel
from yt8m_ray.models.layers import BatchNorm, NormalizedBy, normal_linear

ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {"sigmoid": torch.sigmoid, "relu6": F.relu6}


class DBoF(nn.Module):
    """Projects every frame to K units, pools each unit over the frames, and projects the result."""

    normalized_by: ClassVar[NormalizedBy] = {"cluster_weights": "cluster_bn", "hidden_weights": "hidden_bn"}

    def __init__(self, input_dim: int, config: BagFields) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.activation = ACTIVATIONS[config.activation]
        num_clusters, hidden_dim, batch_norm = config.num_clusters, config.hidden_dim, config.batch_norm
        std = 1 / math.sqrt(input_dim)

        def norm(dim: int) -> BatchNorm | None:
            return BatchNorm(dim, momentum=config.batch_norm_momentum) if batch_norm else None

        self.input_bn = norm(input_dim)
        self.cluster_weights = normal_linear(input_dim, num_clusters, std=std, bias_std=None if batch_norm else std)
        self.cluster_bn = norm(num_clusters)
        self.hidden_weights = normal_linear(
            num_clusters, hidden_dim, std=1 / math.sqrt(num_clusters), bias_std=None if batch_norm else 0.01
        )
        self.hidden_bn = norm(hidden_dim)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the hidden units [B, hidden_dim] of `frames` [B, T, D]; rows outside `mask` [B, T] count nothing."""
        if self.input_bn is not None:
            frames = self.input_bn(frames, mask)
        units = self.cluster_weights(frames)
        if self.cluster_bn is not None:
            units = self.cluster_bn(units, mask)
        hidden = self.hidden_weights(self._pool(self.activation(units), mask))
        if self.hidden_bn is not None:
            hidden = self.hidden_bn(hidden)
        return self.activation(hidden)

    def _pool(self, units: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Both activations are at least 0: padding is no maximum.
        units = units.masked_fill(~mask.unsqueeze(2), 0.0)
        if self.pooling == "max" and units.shape[1]:
            return units.amax(dim=1)
        return units.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


@MODELS.register("dbof", DBoFConfig)
class DBoFModel(FrameModel):
    """A deep bag of frames with a head on its hidden units."""

    def __init__(self, config: DBoFConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.bag = DBoF(self.frame_dim, config)
        self.head = self.build_head(config, config.hidden_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, _, mask = self.sample(frames, num_frames)
        hidden: torch.Tensor = self.bag(frames, mask)
        return hidden
