"""Gated NetVLAD and LightVLAD with late fusion (Miech et al. 2017, arXiv:1706.06905; the 2018 winner's form)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from yt8m_ray.components import MODELS
from yt8m_ray.components.aggregation import LightVLADConfig, NetVLADConfig, NetVLADFields
from yt8m_ray.models.late_fusion import Assignment, LateFusionModel, Pooling
from yt8m_ray.models.layers import L2_NORMALIZE_EPSILON


class NetVLAD(Pooling):
    """Aggregates one feature's frames [B, T, D] into residuals [B, D * K], l2-normalized.

    Frames are assigned softly to clusters; a cluster's vector is the sum of its frames' differences to its centre, or
    of its frames without `centers` [D, K].
    """

    # Shape letters: B clips, T frames, D feature dimensions, K clusters. The result is D-major: element d * K + k is
    # dimension d of cluster k.

    def __init__(self, feature_dim: int, num_clusters: int, fields: NetVLADFields, *, has_centers: bool) -> None:
        super().__init__()
        self.output_dim = feature_dim * num_clusters
        self.assignment = Assignment(feature_dim, num_clusters, fields)
        self.centers: nn.Parameter | None = None
        if has_centers:
            self.centers = nn.Parameter(torch.empty(feature_dim, num_clusters).normal_(std=1 / math.sqrt(feature_dim)))

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assignment_BTK = self.assignment(frames, mask)
        # The product sums over frames: no [B, T, K, D] is ever held.
        vlad_BDK = torch.bmm(frames.transpose(1, 2), assignment_BTK)
        if self.centers is not None:
            vlad_BDK = torch.addcmul(vlad_BDK, assignment_BTK.sum(dim=1, keepdim=True), self.centers, value=-1)
        return normalize_twice(vlad_BDK)


def normalize_twice(vlad_BDK: torch.Tensor) -> torch.Tensor:
    """Returns the clusters' vectors of norm 1, concatenated [B, D * K] and scaled to norm 1 again, in float32."""
    # As two calls of `l2_normalize`, but the second sum needs no pass over all values.
    vlad_BDK = vlad_BDK.float()
    squares_B1K = vlad_BDK.square().sum(dim=1, keepdim=True)
    scale_B1K = torch.rsqrt(squares_B1K.clamp(min=L2_NORMALIZE_EPSILON))
    total_B11 = (squares_B1K * scale_B1K.square()).sum(dim=2, keepdim=True)
    scale_B1K = scale_B1K * torch.rsqrt(total_B11.clamp(min=L2_NORMALIZE_EPSILON))
    return (vlad_BDK * scale_B1K).flatten(1)


@MODELS.register("netvlad", NetVLADConfig)
@MODELS.register("light_vlad", LightVLADConfig)
class NetVLADModel(LateFusionModel):
    """A NetVLAD a feature, of K clusters for the first and K // 2 for the following ones."""

    def __init__(self, config: NetVLADFields, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        cluster_counts = [config.num_clusters] + [config.num_clusters // 2] * (len(feature_sizes) - 1)
        has_centers = isinstance(config, NetVLADConfig)
        super().__init__(
            config,
            [
                NetVLAD(size, num_clusters, config, has_centers=has_centers)
                for size, num_clusters in zip(feature_sizes, cluster_counts, strict=True)
            ],
            hidden_dim=config.hidden_dim,
            gating=config.gating,
            gating_remove_diagonal=config.gating_remove_diagonal,
            feature_sizes=feature_sizes,
            num_classes=num_classes,
        )
