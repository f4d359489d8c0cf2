"""Gated NetFV: learned Fisher vectors, late fusion (Miech et al. 2017, arXiv:1706.06905; the 2018 winner's form)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from yt8m_ray.components import MODELS
from yt8m_ray.components.aggregation import NetFVConfig
from yt8m_ray.models.late_fusion import Assignment, LateFusionModel, Pooling
from yt8m_ray.models.layers import l2_normalize

# Added to the square of a learned deviation, as published.
MIN_DEVIATION = 1e-6


class NetFV(Pooling):
    """Aggregates one feature's frames [B, T, D] into first- and second-order statistics [B, 2 * D * K].

    Both halves are D-major and l2-normalized; in the first one, each cluster is normalized before. The squares of
    `deviations` [D, K] divide the differences to `centers` [D, K].
    """

    # Shape letters: B clips, T frames, D feature dimensions, K clusters.

    def __init__(self, feature_dim: int, num_clusters: int, config: NetFVConfig) -> None:
        super().__init__()
        self.output_dim = 2 * feature_dim * num_clusters
        std = 1 / math.sqrt(feature_dim)
        self.coupling_factor = config.coupling_factor
        self.assignment = Assignment(feature_dim, num_clusters, config)
        self.assignment.shares_weights = config.couple_weights
        self.deviations = nn.Parameter(torch.empty(feature_dim, num_clusters).normal_(mean=1, std=std))
        self.centers: nn.Parameter | None = None
        if not config.couple_weights:
            self.centers = nn.Parameter(torch.empty(feature_dim, num_clusters).normal_(std=std))

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assignment_BTK = self.assignment(frames, mask)
        centers_DK = self.coupling_factor * self.assignment.weights.weight.T if self.centers is None else self.centers
        deviations_DK = self.deviations.square() + MIN_DEVIATION
        # Both orders are differences of sums: in bfloat16 little would be left of them.
        with torch.autocast(frames.device.type, enabled=False):
            assignment_BTK, frames = assignment_BTK.float(), frames.float()
            mass_B1K = assignment_BTK.sum(dim=1, keepdim=True)
            first_BDK = torch.bmm(frames.transpose(1, 2), assignment_BTK)
            second_BDK = torch.bmm(frames.square().transpose(1, 2), assignment_BTK)
            second_BDK = mass_B1K * centers_DK.square() + second_BDK - 2 * first_BDK * centers_DK
            second_BDK = second_BDK / deviations_DK.square() - mass_B1K
            first_BDK = (first_BDK - mass_B1K * centers_DK) / deviations_DK
        first = l2_normalize(l2_normalize(first_BDK, dim=1).flatten(1), dim=1)
        second = l2_normalize(second_BDK.flatten(1), dim=1)
        return torch.cat([first, second], dim=1)


@MODELS.register("netfv", NetFVConfig)
class NetFVModel(LateFusionModel):
    """A NetFV a feature, of K clusters for the first and K // 2 for the following ones."""

    def __init__(self, config: NetFVConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        cluster_counts = [config.num_clusters] + [config.num_clusters // 2] * (len(feature_sizes) - 1)
        super().__init__(
            config,
            [NetFV(size, count, config) for size, count in zip(feature_sizes, cluster_counts, strict=True)],
            hidden_dim=config.hidden_dim,
            gating=config.gating,
            feature_sizes=feature_sizes,
            num_classes=num_classes,
        )
