"""NeXtVLAD, and mixtures of several that learn from their own mixture (Lin et al. 2018, arXiv:1811.05014)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import MODELS
from yt8m_ray.components.aggregation import MixNeXtVLADConfig, NeXtVLADConfig, NeXtVLADFields
from yt8m_ray.models.base import Criterion, FrameModel
from yt8m_ray.models.layers import (
    BatchNorm,
    BatchNormFactory,
    NormalizedBy,
    l2_normalize,
    masked_mean,
    variance_scaling_,
    variance_scaling_linear,
)

# After the assignment's linear layer: a batch norm of G * K channels, one of K shared by groups, or a bias.
ClusterNormalization = Literal["batch_norm", "shared_batch_norm", "bias"]


class NeXtVLAD(nn.Module):
    """Aggregates one feature's frames [B, T, D] into residuals [B, d * K].

    Frames are widened to W values and cut into G groups; each group of each frame is assigned softly to the K clusters,
    which the groups share, and weighed by its attention.
    """

    # Shape letters: B clips, T frames, D feature and W widened dimensions, G groups, P = T * G pieces (one group of one
    # frame), K clusters, d = W / G. The result is d-major: element i * K + k is dimension i of cluster k;
    # `cluster_weights`, W to G * K, is group-major.

    def __init__(
        self,
        feature_dim: int,
        *,
        num_clusters: int,
        groups: int,
        expansion: int,
        cluster_normalization: ClusterNormalization,
        batch_norm: BatchNormFactory,
    ) -> None:
        super().__init__()
        wide_dim = expansion * feature_dim
        self.groups = groups
        self.shares_cluster_bn = cluster_normalization == "shared_batch_norm"
        has_bias = cluster_normalization == "bias"
        self.widen = variance_scaling_linear(feature_dim, wide_dim)
        self.attention = variance_scaling_linear(wide_dim, groups)
        self.cluster_weights = variance_scaling_linear(wide_dim, groups * num_clusters, bias=has_bias)
        num_channels = num_clusters if self.shares_cluster_bn else groups * num_clusters
        self.cluster_bn = None if has_bias else batch_norm(num_channels)
        # TensorFlow's fan-in of its shape [1, d, K] is d.
        self.centers = nn.Parameter(torch.empty(wide_dim // groups, num_clusters))
        variance_scaling_(self.centers.data, fan_in=wide_dim // groups)
        self.bn = batch_norm(self.output_dim)

    @property
    def output_dim(self) -> int:
        """D * K."""
        return self.centers.numel()

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the descriptors [B, d * K]; rows of `frames` outside `mask` [B, T] do not count."""
        num_clips, num_pieces = mask.shape[0], mask.shape[1] * self.groups
        wide_BTW = self.widen(frames)
        attention_BTG = torch.sigmoid(self.attention(wide_BTW)) * mask.unsqueeze(2)
        assignment_BPK = torch.softmax(self._assign(wide_BTW, mask), dim=2)
        assignment_BPK = assignment_BPK * attention_BTG.reshape(num_clips, num_pieces, 1)
        pieces_BPd = wide_BTW.reshape(num_clips, num_pieces, self.centers.shape[0])
        # Frames and groups are one axis of the product that sums over them: no [B, T, G, K, d] is ever held.
        vlad_BdK = torch.bmm(pieces_BPd.transpose(1, 2), assignment_BPK)
        vlad_BdK = vlad_BdK - assignment_BPK.sum(dim=1, keepdim=True) * self.centers
        descriptors: torch.Tensor = self.bn(l2_normalize(vlad_BdK, dim=1).flatten(1))
        return descriptors

    def _assign(self, wide_BTW: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the logits of the assignment [B, P, K]."""
        logits: torch.Tensor = self.cluster_weights(wide_BTW)
        if self.cluster_bn is not None and not self.shares_cluster_bn:
            logits = self.cluster_bn(logits, mask)
        logits = logits.reshape(mask.shape[0], mask.shape[1] * self.groups, self.centers.shape[1])
        if self.cluster_bn is not None and self.shares_cluster_bn:
            logits = self.cluster_bn(logits, mask.repeat_interleave(self.groups, dim=1))
        return logits


class SEGate(nn.Module):
    """y * sigmoid(relu(BN(y W1)) W2), without biases: each unit is scaled by what all units of its vector say."""

    normalized_by: ClassVar[NormalizedBy] = {"squeeze": "bn"}

    def __init__(self, dim: int, *, reduction: int, batch_norm: BatchNormFactory) -> None:
        super().__init__()
        squeezed_dim = max(dim // reduction, 1)
        self.squeeze = variance_scaling_linear(dim, squeezed_dim, bias=False)
        self.bn = batch_norm(squeezed_dim)
        self.excite = variance_scaling_linear(squeezed_dim, dim, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the gated inputs [B, dim]."""
        return inputs * torch.sigmoid(self.excite(F.relu(self.bn(self.squeeze(inputs)))))


class NeXtVLADEncoder(nn.Module):
    """Frames to a gated hidden layer: a NeXtVLAD a feature, concatenated, dropout, a linear layer, batch norm, gate."""

    def __init__(self, config: NeXtVLADFields, *, feature_sizes: Sequence[int]) -> None:
        super().__init__()
        self.feature_sizes = tuple(feature_sizes)
        # All but the gate's batch norm are TensorFlow's unfused kernel, which keeps biased variances.
        batch_norm = functools.partial(BatchNorm, momentum=config.batch_norm_momentum, unbiased_moving_variance=False)
        vlads = [
            NeXtVLAD(
                size,
                num_clusters=config.num_clusters if index == 0 else config.num_clusters // 2,
                groups=config.groups_of(index),
                expansion=config.expansion,
                cluster_normalization="batch_norm",
                batch_norm=batch_norm,
            )
            for index, size in enumerate(feature_sizes)
        ]
        self.vlads = nn.ModuleList(vlads)
        self.dropout = nn.Dropout(config.dropout)
        num_descriptors = sum(vlad.output_dim for vlad in vlads)
        self.hidden = variance_scaling_linear(num_descriptors, config.hidden_dim, bias=False)
        self.hidden_bn = batch_norm(config.hidden_dim)
        self.gate = SEGate(
            config.hidden_dim,
            reduction=config.gating_reduction,
            batch_norm=functools.partial(BatchNorm, momentum=config.batch_norm_momentum),
        )

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the representation [B, hidden_dim]; rows of `frames` outside `mask` [B, T] count nothing."""
        features = frames.split(self.feature_sizes, dim=2)
        descriptors = [vlad(feature, mask) for vlad, feature in zip(self.vlads, features, strict=True)]
        hidden = self.hidden(self.dropout(torch.cat(descriptors, dim=1)))
        gated: torch.Tensor = self.gate(self.hidden_bn(hidden))
        return gated


@MODELS.register("nextvlad", NeXtVLADConfig)
class NeXtVLADModel(FrameModel):
    """One NeXtVLAD a feature, a gated hidden layer and a head on top."""

    def __init__(self, config: NeXtVLADConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.encoder = NeXtVLADEncoder(config, feature_sizes=feature_sizes)
        self.head = self.build_head(config, config.hidden_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, _, mask = self.sample(frames, num_frames)
        representation: torch.Tensor = self.encoder(frames, mask)
        return representation


@MODELS.register("mix_nextvlad", MixNeXtVLADConfig)
class MixNeXtVLADModel(FrameModel):
    """Several NeXtVLADs, whose logits are mixed with weights of the clip's mean frame."""

    # Shape letters: B clips, M branches, C classes.

    def __init__(self, config: MixNeXtVLADConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.temperature = config.temperature
        self.kl_weight = config.kl_weight
        self.mixture_bn = BatchNorm(self.frame_dim, momentum=config.batch_norm_momentum)
        self.mixture_weights = variance_scaling_linear(self.frame_dim, config.num_branches)
        self.encoders = nn.ModuleList(
            NeXtVLADEncoder(config, feature_sizes=feature_sizes) for _ in range(config.num_branches)
        )
        self.heads = nn.ModuleList(self.build_head(config, config.hidden_dim) for _ in range(config.num_branches))

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return self._mix(frames, num_frames)[0]

    def loss(
        self, frames: torch.Tensor, num_frames: torch.Tensor, labels: torch.Tensor, criterion: Criterion
    ) -> torch.Tensor:
        """Returns `criterion` of the mixture and of each branch, and the Kullback-Leibler divergence of the branches.

        The divergence from the mixture, as distributions over all classes, is summed over branches and averaged over
        clips.
        """
        mixture_BC, branches_BMC = self._mix(frames, num_frames)
        total = criterion(mixture_BC, labels)
        for branch_BC in branches_BMC.unbind(1):
            total = total + criterion(branch_BC, labels)
        # The mixture learns from the divergence too, as published.
        log_mixture = F.log_softmax(mixture_BC / self.temperature, dim=1).unsqueeze(1)
        log_branches = F.log_softmax(branches_BMC / self.temperature, dim=2)
        divergence = (log_mixture.exp() * (log_mixture - log_branches)).sum() / max(labels.shape[0], 1)
        return total + self.kl_weight * divergence

    def _mix(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the logits of the mixture [B, C] and of its branches [B, M, C], in float32."""
        frames, num_frames, mask = self.sample(frames, num_frames)
        branches = [head(encoder(frames, mask)) for head, encoder in zip(self.heads, self.encoders, strict=True)]
        branches_BMC = torch.stack(branches, dim=1).float()
        # The mean is that of the real frames; the published one divides by 300 whatever the clip's length.
        weights_BM = torch.softmax(
            self.mixture_weights(self.mixture_bn(masked_mean(frames, num_frames))).float(), dim=1
        )
        # No matrix product: autocast would round the mixture, which the loss reads, to bfloat16.
        return (weights_BM.unsqueeze(2) * branches_BMC).sum(dim=1), branches_BMC
