"""Gated NetVLAD with late fusion of the features (Miech et al. 2017, arXiv:1706.06905; the 2018 winner's form)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch import nn

from yt8m_ray.models.base import MODELS, Model
from yt8m_ray.models.heads import HEADS, HeadField, MoEHeadConfig
from yt8m_ray.models.layers import (
    BATCH_NORM_MOMENTUM,
    BatchNorm,
    ContextGating,
    HiddenLayer,
    l2_normalize,
    mask_frames,
    normal_linear,
)
from yt8m_ray.models.sampling import SAMPLERS, AllFramesConfig, SamplingField
from yt8m_ray.registry import ComponentConfig


class NetVLADConfig(ComponentConfig):
    """The 2018 winner's NetVLADModelLF; the defaults are its largest model, but for the probability gating of its head.

    Attributes:
        num_clusters: K of the first feature; the following ones have K // 2 clusters.
        use_relu: Whether the hidden layer is relu6 of a batch norm; otherwise it is linear with a bias.
        gating: Whether a context gate follows the hidden layer.
        gating_remove_diagonal: Whether a hidden unit is kept out of its own gate.
        batch_norm: Whether frames, clusters, hidden layer and gate are batch-normalized.
    """

    name: Literal["netvlad"] = "netvlad"
    num_clusters: int = pydantic.Field(default=256, ge=2)
    hidden_dim: int = pydantic.Field(default=1024, ge=1)
    use_relu: bool = False
    gating: bool = True
    gating_remove_diagonal: bool = False
    batch_norm: bool = True
    batch_norm_momentum: float = pydantic.Field(default=BATCH_NORM_MOMENTUM, gt=0, le=1)
    sampling: SamplingField = AllFramesConfig()
    head: HeadField = MoEHeadConfig()


class NetVLAD(nn.Module):
    """Aggregates one feature's frames [B, T, D] into residuals [B, D * K], l2-normalized.

    Frames are assigned softly to clusters, and what is kept of a cluster is the sum of its frames' differences to its
    centre. The sum over frames is a matrix product, so that no [B, T, K, D] is ever held. The result is D-major:
    element d * K + k is dimension d of cluster k.

    Shape letters: B clips, T frames, D feature dimensions, K clusters.

    Attributes:
        cluster_weights: Linear layer from frames to the clusters' assignment logits.
        centers: [D, K], not tied to the cluster weights.
    """

    def __init__(self, feature_dim: int, num_clusters: int, *, batch_norm: bool, batch_norm_momentum: float) -> None:
        super().__init__()
        std = 1 / math.sqrt(feature_dim)
        self.cluster_weights = normal_linear(feature_dim, num_clusters, std=std, bias_std=None if batch_norm else std)
        self.cluster_bn = BatchNorm(num_clusters, momentum=batch_norm_momentum) if batch_norm else None
        self.centers = nn.Parameter(torch.empty(feature_dim, num_clusters).normal_(std=std))

    @property
    def output_dim(self) -> int:
        """D * K."""
        return self.centers.numel()

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the descriptors [B, D * K]; rows of `frames` outside `mask` [B, T] count nothing."""
        assignment_BTK = self.cluster_weights(frames)
        if self.cluster_bn is not None:
            assignment_BTK = self.cluster_bn(assignment_BTK, mask)
        assignment_BTK = torch.softmax(assignment_BTK, dim=2) * mask.unsqueeze(2)
        vlad_BDK = torch.bmm(frames.transpose(1, 2), assignment_BTK)
        vlad_BDK = vlad_BDK - assignment_BTK.sum(dim=1, keepdim=True) * self.centers
        return l2_normalize(l2_normalize(vlad_BDK, dim=1).flatten(1), dim=1)


@MODELS.register("netvlad", NetVLADConfig)
class NetVLADModel(Model):
    """A NetVLAD a feature, concatenated; a hidden layer, a context gate and a head on top."""

    def __init__(self, config: NetVLADConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        momentum = config.batch_norm_momentum
        self.sampler = SAMPLERS.build(config.sampling)
        self.input_bn = BatchNorm(self.frame_dim, momentum=momentum) if config.batch_norm else None
        cluster_counts = [config.num_clusters] + [config.num_clusters // 2] * (len(feature_sizes) - 1)
        self.vlads = nn.ModuleList(
            NetVLAD(size, num_clusters, batch_norm=config.batch_norm, batch_norm_momentum=momentum)
            for size, num_clusters in zip(feature_sizes, cluster_counts, strict=True)
        )
        self.hidden = HiddenLayer(
            sum(size * count for size, count in zip(feature_sizes, cluster_counts, strict=True)),
            config.hidden_dim,
            std=1
            / math.sqrt(config.num_clusters),  # as published: not 1 / sqrt(input), although the input is D * K long
            use_relu=config.use_relu,
            batch_norm=config.batch_norm,
            momentum=momentum,
        )
        self.gating = None
        if config.gating:
            self.gating = ContextGating(
                config.hidden_dim,
                remove_diagonal=config.gating_remove_diagonal,
                batch_norm=config.batch_norm,
                batch_norm_momentum=momentum,
            )
        self.head = HEADS.build(
            config.head, input_dim=config.hidden_dim, num_classes=num_classes, batch_norm_momentum=momentum
        )

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames = self.sampler(frames, num_frames)
        frames, mask = mask_frames(frames, num_frames)
        if self.input_bn is not None:
            frames = self.input_bn(frames, mask)
        features = frames.split(self.feature_sizes, dim=2)
        descriptors = [vlad(feature, mask) for vlad, feature in zip(self.vlads, features, strict=True)]
        hidden: torch.Tensor = self.hidden(torch.cat(descriptors, dim=1))
        return hidden if self.gating is None else self.gating(hidden)
