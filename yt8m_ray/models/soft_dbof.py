"""Soft and gated deep bags of frames with late fusion, the 2018 winner's SoftDbofModelLF and GatedDbofModelLF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from yt8m_ray.components import MODELS
from yt8m_ray.components.aggregation import GatedDBoFConfig, SoftDBoFConfig, SoftDBoFFields
from yt8m_ray.models.late_fusion import Assignment, LateFusionModel, Pooling
from yt8m_ray.models.layers import BatchNorm, NormalizedBy, l2_normalize, normal_linear


class SoftDBoF(Pooling):
    """How much of a clip falls to each cluster [B, K], l2-normalized; with `max_pool` beside the largest shares."""

    def __init__(self, feature_dim: int, num_clusters: int, config: SoftDBoFFields) -> None:
        super().__init__()
        self.max_pool = config.max_pool
        self.output_dim = num_clusters * (2 if config.max_pool else 1)
        self.assignment = Assignment(feature_dim, num_clusters, config)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shares_BTK = self.assignment(frames, mask)
        pooled = l2_normalize(shares_BTK.sum(dim=1), dim=1)
        if self.max_pool:
            pooled = torch.cat([pooled, l2_normalize(largest_share(shares_BTK), dim=1)], dim=1)
        return pooled


class GatedDBoF(Pooling):
    """The sums of the shares [B, K], gated by their maxima through linear layers K -> D -> K, and l2-normalized."""

    normalized_by: ClassVar[NormalizedBy] = {"gate": "gate_bn"}

    def __init__(self, feature_dim: int, num_clusters: int, config: SoftDBoFFields) -> None:
        super().__init__()
        std = 1 / math.sqrt(feature_dim)
        self.output_dim = num_clusters
        self.assignment = Assignment(feature_dim, num_clusters, config)
        self.gate_projection = normal_linear(num_clusters, feature_dim, std=std)
        self.gate = normal_linear(feature_dim, num_clusters, std=std, bias_std=None if config.batch_norm else std)
        self.gate_bn = BatchNorm(num_clusters, momentum=config.batch_norm_momentum) if config.batch_norm else None

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shares_BTK = self.assignment(frames, mask)
        gate = self.gate(self.gate_projection(l2_normalize(largest_share(shares_BTK), dim=1)))
        if self.gate_bn is not None:
            gate = self.gate_bn(gate)
        return l2_normalize(torch.sigmoid(gate) * shares_BTK.sum(dim=1), dim=1)


def largest_share(shares: torch.Tensor) -> torch.Tensor:
    """Returns the maximum over the frames of `shares` [B, T, K], none of them negative; zeros without frames."""
    return shares.amax(dim=1) if shares.shape[1] else shares.sum(dim=1)


@MODELS.register("soft_dbof", SoftDBoFConfig)
@MODELS.register("gated_dbof", GatedDBoFConfig)
class SoftDBoFModel(LateFusionModel):
    """A bag a feature, of K clusters for the first and K // 8 for the following ones."""

    def __init__(self, config: SoftDBoFFields, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        first = GatedDBoF if isinstance(config, GatedDBoFConfig) else SoftDBoF
        # A single cluster would have every frame whole, and nothing to learn.
        others = max(config.num_clusters // 8, 2)
        super().__init__(
            config,
            [
                first(feature_sizes[0], config.num_clusters, config),
                *(SoftDBoF(size, others, config) for size in feature_sizes[1:]),
            ],
            hidden_dim=config.hidden_dim or None,
            feature_sizes=feature_sizes,
            num_classes=num_classes,
        )
