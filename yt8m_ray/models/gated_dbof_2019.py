"""Deep bag of frames with squeeze-and-excitation gates, of the 7th place of 2019 (ceshine/yt8m-2019)."""

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
    mask_frames,
    masked_mean,
)
from yt8m_ray.models.logit_moe import LogitMoEHeadConfig
from yt8m_ray.models.sampling import SamplingField, TrimmedFramesConfig


class GatedDBoF2019Config(FrameModelFields):
    """The defaults are the run that was published as dbof-3."""

    name: Literal["gated_dbof_2019"] = "gated_dbof_2019"
    num_clusters: int = pydantic.Field(default=4096, ge=1)
    """Units that each frame is projected to."""
    hidden_dim: int = pydantic.Field(default=2048, ge=1)
    """Units after the pooling."""
    dropout: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Of the pooled units."""
    frame_se_reduction: int | None = pydantic.Field(default=8, ge=1)
    """How much narrower the middle of the gate on a frame's units is; null is no gate."""
    se_reduction: int | None = pydantic.Field(default=4, ge=1)
    """The same for the hidden layer."""
    batch_norm_momentum: float = pydantic.Field(default=TORCH_BATCH_NORM_MOMENTUM, gt=0, le=1)
    sampling: SamplingField = TrimmedFramesConfig()
    head: HeadField = LogitMoEHeadConfig()


@MODELS.register("gated_dbof_2019", GatedDBoF2019Config)
class GatedDBoF2019Model(FrameModel):
    """Gated relu units of each frame, their maximum and mean over real frames, a gated hidden layer and a head."""

    # Published otherwise: the mean divides by the padded length of the batch, so that other clips change it; scales of
    # batch norms start uniform in (0, 1), the default of torch before 1.2, which only halves each layer's output.

    def __init__(self, config: GatedDBoF2019Config, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        batch_norm = functools.partial(BatchNorm, momentum=config.batch_norm_momentum, epsilon=TORCH_BATCH_NORM_EPSILON)
        self.frame_linear = kaiming_linear(self.frame_dim, config.num_clusters)
        self.frame_gate = None
        if config.frame_se_reduction is not None:
            # Published as convolutions, which keep torch's own initial weights.
            self.frame_gate = BatchNormSEGate(
                config.num_clusters, reduction=config.frame_se_reduction, batch_norm=batch_norm, linear=nn.Linear
            )
        self.pooled_bn = batch_norm(2 * config.num_clusters)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = kaiming_linear(2 * config.num_clusters, config.hidden_dim, bias=False)
        self.gate = None
        if config.se_reduction is not None:
            self.gate = BatchNormSEGate(config.hidden_dim, reduction=config.se_reduction, batch_norm=batch_norm)
        self.head = self.build_head(config, config.hidden_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames, mask = self.sample(frames, num_frames)
        units = F.relu(self.frame_linear(frames))
        if self.frame_gate is not None:
            units = self.frame_gate(units, mask)
        hidden = F.relu(self.hidden(self.dropout(self.pooled_bn(_pool(units, num_frames)))))
        return hidden if self.gate is None else self.gate(hidden)


def _pool(units: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Returns maximum and mean [B, 2 * H] of units [B, T, H], none below 0, over real frames; zeros without any."""
    if units.shape[1] == 0:
        units = units.sum(dim=1, keepdim=True)  # one frame of zeros: there is no maximum of nothing
    real, _ = mask_frames(units, num_frames)  # as units are not negative, a zeroed frame never is the maximum alone
    return torch.cat([real.amax(dim=1), masked_mean(units, num_frames)], dim=1)
