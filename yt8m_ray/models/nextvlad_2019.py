"""The NeXtVLAD model of the 7th place of 2019 (ceshine/yt8m-2019)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.models.base import MODELS, FrameModel, FrameModelFields
from yt8m_ray.models.gates import BatchNormSEGate
from yt8m_ray.models.heads import HeadField
from yt8m_ray.models.layers import (
    TORCH_BATCH_NORM_EPSILON,
    TORCH_BATCH_NORM_MOMENTUM,
    BatchNorm,
    kaiming_linear,
    l2_normalize,
)
from yt8m_ray.models.logit_moe import LogitMoEHeadConfig
from yt8m_ray.models.nextvlad import NeXtVLAD
from yt8m_ray.models.sampling import SamplingField, TrimmedFramesConfig

ALPHA = 100.0  # the first assignments are softmax(-ALPHA * squared distance to the centre)


class NeXtVLAD2019Config(FrameModelFields):
    """The defaults are the run that was published as nextvlad-2."""

    name: Literal["nextvlad_2019"] = "nextvlad_2019"
    num_clusters: int = pydantic.Field(default=64, ge=2)
    """K of the first feature; the others have K // 2 clusters."""
    groups: int = pydantic.Field(default=16, ge=1)
    """G of every feature."""
    expansion: int = pydantic.Field(default=2, ge=1)
    """How many times a feature's frames are widened before they are cut into groups."""
    hidden_dim: int = pydantic.Field(default=2048, ge=1)
    cluster_bn: bool = True
    """Whether a batch norm of K channels, shared by groups, precedes the assignment, or a bias."""
    dropout: float = pydantic.Field(default=0.25, ge=0, lt=1)
    """Of whole clusters."""
    se_reduction: int | None = pydantic.Field(default=4, ge=1)
    """How much narrower than the hidden layer the middle of its gate is; null is no gate."""
    batch_norm_momentum: float = pydantic.Field(default=TORCH_BATCH_NORM_MOMENTUM, gt=0, le=1)
    sampling: SamplingField = TrimmedFramesConfig()
    head: HeadField = LogitMoEHeadConfig()


@MODELS.register("nextvlad_2019", NeXtVLAD2019Config)
class NeXtVLAD2019Model(FrameModel):
    """A NeXtVLAD of the l2-normalized frames of each feature, a relu layer, a gate and a head on top."""

    # The published code reads the assignment's logits in another order than it normalizes them in, so that its softmax
    # runs over all groups and some of the clusters; that of `NeXtVLAD` runs over the clusters.

    def __init__(self, config: NeXtVLAD2019Config, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        batch_norm = functools.partial(BatchNorm, momentum=config.batch_norm_momentum, epsilon=TORCH_BATCH_NORM_EPSILON)
        self.dropout = config.dropout
        self.cluster_counts = [config.num_clusters] + [config.num_clusters // 2] * (len(feature_sizes) - 1)
        vlads = [
            NeXtVLAD(
                size,
                num_clusters=num_clusters,
                groups=config.groups,
                expansion=config.expansion,
                cluster_normalization="shared_batch_norm" if config.cluster_bn else "bias",
                batch_norm=batch_norm,
            )
            for size, num_clusters in zip(feature_sizes, self.cluster_counts, strict=True)
        ]
        for vlad in vlads:
            _initialize(vlad)
        self.vlads = nn.ModuleList(vlads)
        self.hidden = kaiming_linear(sum(vlad.output_dim for vlad in vlads), config.hidden_dim)
        self.gate = None
        if config.se_reduction is not None:
            self.gate = BatchNormSEGate(config.hidden_dim, reduction=config.se_reduction, batch_norm=batch_norm)
        self.head = self.build_head(config, config.hidden_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, _, mask = self.sample(frames, num_frames)
        features = frames.split(self.feature_sizes, dim=2)
        descriptors = [
            self._drop_clusters(vlad(l2_normalize(feature, dim=2), mask), num_clusters)
            for vlad, feature, num_clusters in zip(self.vlads, features, self.cluster_counts, strict=True)
        ]
        hidden = F.relu(self.hidden(torch.cat(descriptors, dim=1)))
        return hidden if self.gate is None else self.gate(hidden)

    def _drop_clusters(self, descriptors: torch.Tensor, num_clusters: int) -> torch.Tensor:
        """Returns [B, d * K] without some of the K clusters in training."""
        kept = F.dropout(descriptors.new_ones(descriptors.shape[0], num_clusters), self.dropout, self.training)
        return descriptors * kept.repeat(1, descriptors.shape[1] // num_clusters)


@torch.no_grad()
def _initialize(vlad: NeXtVLAD) -> None:
    """Sets the published initial weights."""
    # Published otherwise: scales of batch norms start uniform in (0, 1), the default of torch before 1.2, which only
    # halves each layer's output; the assignment's bias is the norm of the centre, where distances need its square.
    for linear in (vlad.widen, vlad.attention):
        nn.init.kaiming_normal_(linear.weight)
    nn.init.uniform_(vlad.centers)
    # Every group reads all groups, [G * K, G * d]: |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and softmax forgets |x|^2.
    vlad.cluster_weights.weight.copy_((2 * ALPHA * vlad.centers.T).repeat(vlad.groups, vlad.groups))
    if vlad.cluster_weights.bias is not None:
        squared_norms = vlad.groups * vlad.centers.square().sum(dim=0)
        vlad.cluster_weights.bias.copy_((-ALPHA * squared_norms).repeat(vlad.groups))
