"""The 7th place of 2019 (ceshine/yt8m-2019): a gated deep bag of frames and a NeXtVLAD, with its gates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import MODELS
from yt8m_ray.components.aggregation import GatedDBoF2019Config, NeXtVLAD2019Config, SeventhPlaceFields
from yt8m_ray.models.base import FrameModel
from yt8m_ray.models.layers import (
    TORCH_BATCH_NORM_EPSILON,
    BatchNorm,
    BatchNormFactory,
    kaiming_linear,
    l2_normalize,
    mask_frames,
    masked_mean,
)
from yt8m_ray.models.nextvlad import NeXtVLAD

# Not as published: scales of batch norms start at 1, not uniform in (0, 1) (torch's default before 1.2), which only
# halves each layer's output.

ALPHA = 100.0  # the first assignments are softmax(-ALPHA * squared distance to the centre)

LinearFactory = Callable[[int, int], nn.Linear]  # from numbers of inputs and outputs


def _batch_norm(config: SeventhPlaceFields) -> BatchNormFactory:
    """Returns what makes their batch norms."""
    return functools.partial(BatchNorm, momentum=config.batch_norm_momentum, epsilon=TORCH_BATCH_NORM_EPSILON)


class BatchNormSEGate(nn.Module):
    """x * sigmoid(W2 BN(relu(W1 BN(x) + b1)) + b2), of vectors [B, dim] or frames [B, T, dim]."""

    def __init__(
        self, dim: int, *, reduction: int, batch_norm: BatchNormFactory, linear: LinearFactory = kaiming_linear
    ) -> None:
        super().__init__()
        squeezed_dim = max(dim // reduction, 1)
        self.input_bn = batch_norm(dim)
        self.squeeze = linear(dim, squeezed_dim)
        self.squeeze_bn = batch_norm(squeezed_dim)
        self.excite = linear(squeezed_dim, dim)

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the gated inputs; rows of [B, T, dim] outside `mask` [B, T] are in no statistic."""
        squeezed = F.relu(self.squeeze(self.input_bn(inputs, mask)))
        return inputs * torch.sigmoid(self.excite(self.squeeze_bn(squeezed, mask)))


class SeventhPlaceModel(FrameModel):
    """Pooled frames, a relu layer `hidden`, a gate and a head."""

    hidden: nn.Linear

    def build_top(self, config: SeventhPlaceFields) -> None:
        """Adds the gate and the head."""
        self.gate = None
        batch_norm = _batch_norm(config)
        if config.se_reduction is not None:
            self.gate = BatchNormSEGate(config.hidden_dim, reduction=config.se_reduction, batch_norm=batch_norm)
        self.head = self.build_head(config, config.hidden_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.hidden(self.pool(*self.sample(frames, num_frames))))
        return hidden if self.gate is None else self.gate(hidden)

    def pool(self, frames: torch.Tensor, num_frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the hidden layer's input from what `sample` returns."""
        raise NotImplementedError


@MODELS.register("gated_dbof_2019", GatedDBoF2019Config)
class GatedDBoF2019Model(SeventhPlaceModel):
    """Gated relu units of each frame, their maximum and mean over real frames, a gated hidden layer and a head."""

    def __init__(self, config: GatedDBoF2019Config, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        num_units = config.num_clusters
        self.frame_linear = kaiming_linear(self.frame_dim, num_units)
        self.frame_gate = None
        if (reduction := config.frame_se_reduction) is not None:
            # Published as convolutions, which keep torch's own initial weights.
            self.frame_gate = BatchNormSEGate(
                num_units, reduction=reduction, batch_norm=_batch_norm(config), linear=nn.Linear
            )
        self.pooled_bn = _batch_norm(config)(2 * num_units)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = kaiming_linear(2 * num_units, config.hidden_dim, bias=False)
        self.build_top(config)

    def pool(self, frames: torch.Tensor, num_frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        units = F.relu(self.frame_linear(frames))
        if self.frame_gate is not None:
            units = self.frame_gate(units, mask)
        if units.shape[1] == 0:
            # One frame of zeros: there is no maximum of nothing.
            units = units.sum(dim=1, keepdim=True)
        # As units are not negative, a zeroed frame never is the maximum alone.
        real, _ = mask_frames(units, num_frames)
        # Published otherwise: the mean divides by the padded length of the batch, so that other clips change it.
        pooled = torch.cat([real.amax(dim=1), masked_mean(units, num_frames)], dim=1)
        dropped: torch.Tensor = self.dropout(self.pooled_bn(pooled))
        return dropped


@MODELS.register("nextvlad_2019", NeXtVLAD2019Config)
class NeXtVLAD2019Model(SeventhPlaceModel):
    """A NeXtVLAD of the l2-normalized frames of each feature, a relu layer, a gate and a head on top."""

    # The published code reads the assignment's logits in another order than it normalizes them in, so that its softmax
    # runs over all groups and some of the clusters; that of `NeXtVLAD` runs over the clusters.

    def __init__(self, config: NeXtVLAD2019Config, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.dropout = config.dropout
        self.cluster_counts = [config.num_clusters] + [config.num_clusters // 2] * (len(feature_sizes) - 1)
        vlads = [
            NeXtVLAD(
                size,
                num_clusters=num_clusters,
                groups=config.groups,
                expansion=config.expansion,
                cluster_normalization="shared_batch_norm" if config.cluster_bn else "bias",
                batch_norm=_batch_norm(config),
            )
            for size, num_clusters in zip(feature_sizes, self.cluster_counts, strict=True)
        ]
        for vlad in vlads:
            _initialize(vlad)
        self.vlads = nn.ModuleList(vlads)
        self.hidden = kaiming_linear(sum(vlad.output_dim for vlad in vlads), config.hidden_dim)
        self.build_top(config)

    def pool(self, frames: torch.Tensor, num_frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features = frames.split(self.feature_sizes, dim=2)
        descriptors = [
            self._drop_clusters(vlad(l2_normalize(feature, dim=2), mask), num_clusters)
            for vlad, feature, num_clusters in zip(self.vlads, features, self.cluster_counts, strict=True)
        ]
        return torch.cat(descriptors, dim=1)

    def _drop_clusters(self, descriptors: torch.Tensor, num_clusters: int) -> torch.Tensor:
        """Returns [B, d * K] without some of the K clusters in training."""
        kept = F.dropout(descriptors.new_ones(descriptors.shape[0], num_clusters), self.dropout, self.training)
        return descriptors * kept.repeat(1, descriptors.shape[1] // num_clusters)


@torch.no_grad()
def _initialize(vlad: NeXtVLAD) -> None:
    """Sets the published initial weights."""
    for linear in (vlad.widen, vlad.attention):
        nn.init.kaiming_normal_(linear.weight)
    nn.init.uniform_(vlad.centers)
    # Every group reads all groups, [G * K, G * d]: |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and softmax forgets |x|^2.
    vlad.cluster_weights.weight.copy_((2 * ALPHA * vlad.centers.T).repeat(vlad.groups, vlad.groups))
    if vlad.cluster_weights.bias is not None:
        # Published is the norm of the centre, where distances need its square.
        squared_norms = vlad.groups * vlad.centers.square().sum(dim=0)
        vlad.cluster_weights.bias.copy_((-ALPHA * squared_norms).repeat(vlad.groups))
