"""Bidirectional GRUs of You8M (5th place of 2017) and the 2018 winner: alone, a branch a feature, beside a bag."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import MODELS
from yt8m_ray.components.models import BidirectionalGRUConfig, BranchedGRUConfig, GRUDBoFConfig
from yt8m_ray.models.base import FrameModel
from yt8m_ray.models.dbof import DBoF
from yt8m_ray.models.layers import BatchNorm, ContextGating, glorot_linear, mask_frames
from yt8m_ray.models.recurrent import GRU


class BidirectionalGRU(nn.Module):
    """A GRU in each direction, of half the cells, and one over the outputs of both."""

    def __init__(self, input_dim: int, cell_dim: int) -> None:
        super().__init__()
        self.forwards = GRU(input_dim, cell_dim // 2)
        self.backwards = GRU(input_dim, cell_dim // 2, backward_in_time=True)
        self.top = GRU(2 * (cell_dim // 2), cell_dim)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Returns the last state [B, cell_dim]; `frames` must be finite in the padding too."""
        outputs = [layer(frames, num_frames)[0] for layer in (self.forwards, self.backwards)]
        state: torch.Tensor = self.top(torch.cat(outputs, dim=2), num_frames)[1]
        return state


def _gating(dim: int, *, enabled: bool, batch_norm_momentum: float) -> ContextGating | None:
    if not enabled:
        return None
    return ContextGating(dim, remove_diagonal=False, batch_norm=False, batch_norm_momentum=batch_norm_momentum)


@MODELS.register("bidirectional_gru", BidirectionalGRUConfig)
class BidirectionalGRUModel(FrameModel):
    """The last state of a bidirectional GRU with another on top, optionally gated, and a head."""

    def __init__(self, config: BidirectionalGRUConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        momentum = config.batch_norm_momentum
        self.gru = BidirectionalGRU(self.frame_dim, config.cell_dim)
        self.gating = _gating(config.cell_dim, enabled=config.gating, batch_norm_momentum=momentum)
        self.head = self.build_head(config, config.cell_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames, _ = self.sample(frames, num_frames)
        state: torch.Tensor = self.gru(frames, num_frames)
        return state if self.gating is None else self.gating(state)


class GRUBranch(nn.Module):
    """One feature's branch: batch norm, a linear layer, batch norm, relu6, and a bidirectional GRU of as many cells."""

    def __init__(self, feature_dim: int, *, batch_norm_momentum: float) -> None:
        super().__init__()
        # The frames are of rank 3: TensorFlow's kernel for them keeps the biased variance.
        self.input_bn, self.linear_bn = (
            BatchNorm(feature_dim, momentum=batch_norm_momentum, unbiased_moving_variance=False) for _ in range(2)
        )
        self.linear = glorot_linear(feature_dim, feature_dim, bias=False)
        self.gru = BidirectionalGRU(feature_dim, feature_dim)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Returns the last state [B, feature_dim]; statistics are those of the frames that `mask` [B, T] keeps."""
        hidden = self.linear_bn(self.linear(self.input_bn(frames, mask)), mask)
        state: torch.Tensor = self.gru(F.relu6(hidden), num_frames)
        return state


@MODELS.register("branched_gru", BranchedGRUConfig)
class BranchedGRUModel(FrameModel):
    """A GRU branch a feature, concatenated and optionally gated, and a head; its batch norms do not count padding."""

    def __init__(self, config: BranchedGRUConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        momentum = config.batch_norm_momentum
        self.branches = nn.ModuleList(GRUBranch(size, batch_norm_momentum=momentum) for size in feature_sizes)
        self.gating = _gating(self.frame_dim, enabled=config.gating, batch_norm_momentum=momentum)
        self.head = self.build_head(config, self.frame_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames, mask = self.sample(frames, num_frames)
        features = frames.split(self.feature_sizes, dim=2)
        states = [branch(feature, mask, num_frames) for branch, feature in zip(self.branches, features, strict=True)]
        state = torch.cat(states, dim=1)
        return state if self.gating is None else self.gating(state)


@MODELS.register("gru_dbof", GRUDBoFConfig)
class GRUDBoFModel(FrameModel):
    """The last state of a bidirectional GRU beside the hidden units of a deep bag of frames, and a head."""

    def __init__(self, config: GRUDBoFConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.gru = BidirectionalGRU(self.frame_dim, config.cell_dim)
        self.bag = DBoF(self.frame_dim, config)
        self.head = self.build_head(config, config.cell_dim + config.hidden_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        real_frames, _ = mask_frames(frames, num_frames)
        sampled, _, mask = self.sample(frames, num_frames)
        return torch.cat([self.gru(real_frames, num_frames), self.bag(sampled, mask)], dim=1)
