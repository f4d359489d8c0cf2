"""What the 2018 winner's pooling models share: each feature is pooled on its own, then a hidden layer joins them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components.aggregation import LateFusionFields
from yt8m_ray.models.base import FrameModel
from yt8m_ray.models.layers import BatchNorm, ContextGating, NormalizedBy, normal_linear

# Clips that a CPU pools at a time without a gradient.
CLIPS_A_PART = 4


class Assignment(nn.Module):
    """Soft assignment of frames to clusters: softmax(BN(x W)) over the clusters, with a bias where there is no BN."""

    def __init__(self, feature_dim: int, num_clusters: int, fields: LateFusionFields) -> None:
        super().__init__()
        std = 1 / math.sqrt(feature_dim)
        self.weights = normal_linear(feature_dim, num_clusters, std=std, bias_std=None if fields.batch_norm else std)
        self.bn = BatchNorm(num_clusters, momentum=fields.batch_norm_momentum) if fields.batch_norm else None
        # A pooling layer that reads the weights too sets this: their output is not for the batch norm alone.
        self.shares_weights = False

    @property
    def normalized_by(self) -> NormalizedBy:
        return {} if self.shares_weights else {"weights": "bn"}

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the shares [B, T, K] of each frame [B, T, D], which add up to 1, or to 0 outside `mask` [B, T]."""
        logits = self.weights(frames)
        if self.bn is not None:
            logits = self.bn(logits, mask)
        return torch.softmax(logits, dim=2) * mask.unsqueeze(2)


class Pooling(nn.Module):
    """A layer from one feature's frames to one vector: `forward(frames [B, T, D], mask [B, T]) -> [B, output_dim]`."""

    output_dim: int

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the pooled feature; rows of `frames` outside `mask` count nothing."""
        raise NotImplementedError


class HiddenLayer(nn.Module):
    """relu6(BN(x W)) with `use_relu` and batch normalization, else x W + b."""

    normalized_by: ClassVar[NormalizedBy] = {"linear": "bn"}

    def __init__(self, input_dim: int, hidden_dim: int, fields: LateFusionFields) -> None:
        super().__init__()
        normalized = fields.use_relu and fields.batch_norm
        # As published: not 1 / sqrt(input), although the input is many times as long.
        std = 1 / math.sqrt(fields.num_clusters)
        self.linear = normal_linear(input_dim, hidden_dim, std=std, bias_std=None if normalized else 0.01)
        self.bn = BatchNorm(hidden_dim, momentum=fields.batch_norm_momentum) if normalized else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the hidden representation [B, hidden_dim]."""
        hidden: torch.Tensor = self.linear(inputs)
        return hidden if self.bn is None else F.relu6(self.bn(hidden))


class LateFusionModel(FrameModel):
    """Batch-normalized frames, a pooling layer a feature, the results concatenated; hidden layer, gate and head on top.

    Without `hidden_dim` there is no hidden layer; `gating` is a context gate behind it.
    """

    def __init__(
        self,
        config: LateFusionFields,
        pools: Sequence[Pooling],
        *,
        hidden_dim: int | None,
        gating: bool = False,
        gating_remove_diagonal: bool = False,
        feature_sizes: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        momentum = config.batch_norm_momentum
        self.input_bn = BatchNorm(self.frame_dim, momentum=momentum) if config.batch_norm else None
        self.pools = nn.ModuleList(pools)
        self.pooled_dim = output_dim = sum(pool.output_dim for pool in pools)
        self.hidden: HiddenLayer | None = None
        self.gating: ContextGating | None = None
        if hidden_dim is not None:
            self.hidden = HiddenLayer(output_dim, hidden_dim, config)
            output_dim = hidden_dim
        if gating:
            self.gating = ContextGating(
                output_dim,
                remove_diagonal=gating_remove_diagonal,
                batch_norm=config.batch_norm,
                batch_norm_momentum=momentum,
            )
        self.head = self.build_head(config, output_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        # Parts are the same as the whole where nothing is kept for a gradient, and no statistic is the batch's.
        if frames.device.type == "cpu" and not (self.training or torch.is_grad_enabled()):
            pooled = self._pool_by_parts(frames, num_frames)
        else:
            pooled = torch.cat(self._pool(frames, num_frames), dim=1)
        if self.hidden is not None:
            pooled = self.hidden(pooled)
        return pooled if self.gating is None else self.gating(pooled)

    def _pool_by_parts(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        # A clip needs megabytes for a moment, which some caches hold. More than 32 MB together the C library maps anew
        # each time, page by page.
        pooled = frames.new_empty(len(frames), self.pooled_dim, dtype=torch.float32)
        parts = (all_clips.split(CLIPS_A_PART) for all_clips in (frames, num_frames, pooled))
        for part, part_num_frames, part_pooled in zip(*parts, strict=True):
            torch.cat(self._pool(part, part_num_frames), dim=1, out=part_pooled)
        return pooled

    def _pool(self, frames: torch.Tensor, num_frames: torch.Tensor) -> list[torch.Tensor]:
        """Returns the pooled features of clips, to be concatenated."""
        frames, _, mask = self.sample(frames, num_frames)
        if self.input_bn is not None:
            frames = self.input_bn(frames, mask)
        features = frames.split(self.feature_sizes, dim=2)
        return [pool(feature, mask) for pool, feature in zip(self.pools, features, strict=True)]
