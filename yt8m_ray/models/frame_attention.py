"""Attention over frames, the 2018 winner's attention_frames_v0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import MODELS
from yt8m_ray.components.models import FrameAttentionConfig
from yt8m_ray.models.base import FrameModel
from yt8m_ray.models.layers import LOG_OF_NOTHING, BatchNorm, glorot_linear

EXPANSION = 2  # units for each dimension of a feature


class FrameAttention(nn.Module):
    """One feature's frames [B, T, D] -> their attention-weighted mean [B, 2 * D].

    A frame's weight is the softmax over time of one linear unit on its batch-normalized values; the mean is that of
    relu6(BN(x W)).
    """

    def __init__(self, feature_dim: int, *, momentum: float) -> None:
        super().__init__()
        self.input_bn = BatchNorm(feature_dim, momentum=momentum, unbiased_moving_variance=False)
        self.units = glorot_linear(feature_dim, EXPANSION * feature_dim, bias=False)
        self.unit_bn = BatchNorm(EXPANSION * feature_dim, momentum=momentum, unbiased_moving_variance=False)
        self.gate = glorot_linear(feature_dim, 1, bias=False)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the weighted means; rows outside `mask` [B, T] weigh nothing."""
        frames = self.input_bn(frames, mask)
        units = F.relu6(self.unit_bn(self.units(frames), mask))
        gate = self.gate(frames).float().masked_fill(~mask.unsqueeze(2), LOG_OF_NOTHING)
        weights = torch.softmax(gate, dim=1) * mask.unsqueeze(2)
        return torch.bmm(weights.transpose(1, 2), units).squeeze(1)


@MODELS.register("frame_attention", FrameAttentionConfig)
class FrameAttentionModel(FrameModel):
    """Attention a feature, the means concatenated, and a head."""

    def __init__(self, config: FrameAttentionConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.attend_to_padding = config.attend_to_padding
        self.max_frames = config.max_frames
        self.attentions = nn.ModuleList(
            FrameAttention(size, momentum=config.batch_norm_momentum) for size in feature_sizes
        )
        self.head = self.build_head(config, EXPANSION * self.frame_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, _, mask = self.sample(frames, num_frames)
        if self.attend_to_padding:
            # Cuts where the number is negative.
            frames = F.pad(frames, (0, 0, 0, self.max_frames - frames.shape[1]))
            mask = torch.ones_like(frames[..., 0], dtype=torch.bool)
        features = frames.split(self.feature_sizes, dim=2)
        return torch.cat([pool(feature, mask) for pool, feature in zip(self.attentions, features, strict=True)], dim=1)
