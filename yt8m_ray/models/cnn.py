"""Convolutions over time, You8M's CNN_4xMeanMax_1312OUT (5th place of 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import HEADS, MODELS
from yt8m_ray.components.models import CNNConfig
from yt8m_ray.components.sampling import FrameSequenceConfig
from yt8m_ray.models.base import Model
from yt8m_ray.models.sampling import FrameSequence


class Branch(NamedTuple):
    """One convolution: the frames that it reads, and how it moves over them."""

    num_frames: int  # consecutive, cut out of the clip
    every: int  # interval of those that are kept
    kernel_size: int  # in kept frames, as the stride
    stride: int


# As published; each of them once with mean and once with max pooling.
BRANCHES = (Branch(20, 1, 1, 1), Branch(33, 3, 5, 2), Branch(50, 5, 3, 1), Branch(20, 1, 5, 3))

INITIAL_STD = 0.1
INITIAL_BIAS = 0.1


class PooledConvolution(nn.Module):
    """A convolution over a random cut, in eval mode the clip's middle, pooled over time."""

    def __init__(self, frame_dim: int, num_channels: int, branch: Branch, *, pooling: Literal["mean", "max"]) -> None:
        super().__init__()
        self.every = branch.every
        self.pooling = pooling
        # Shorter clips repeat their last frame, as published.
        self.cut = FrameSequence(FrameSequenceConfig(num_frames=branch.num_frames))
        self.convolution = nn.Conv1d(frame_dim, num_channels, branch.kernel_size, stride=branch.stride)
        nn.init.trunc_normal_(self.convolution.weight, std=INITIAL_STD, a=-2 * INITIAL_STD, b=2 * INITIAL_STD)
        nn.init.constant_(self.convolution.bias, INITIAL_BIAS)  # type: ignore[arg-type]

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Returns the pooled channels [B, num_channels]; zeros stand for the frames of a clip without any."""
        cut, num_cut = self.cut(frames, num_frames)
        if not cut.shape[1]:
            cut = frames.new_zeros(len(frames), self.cut.config.num_frames, frames.shape[2])
        cut = cut.masked_fill((num_cut == 0)[:, None, None], 0.0)[:, :: self.every]
        units = F.relu(self.convolution(cut.transpose(1, 2)))
        return units.mean(dim=2) if self.pooling == "mean" else units.amax(dim=2)


@MODELS.register("cnn", CNNConfig)
class CNNModel(Model):
    """Eight pooled convolutions side by side, and a head."""

    def __init__(self, config: CNNConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        poolings: tuple[Literal["mean", "max"], ...] = ("mean", "max")
        self.convolutions = nn.ModuleList(
            PooledConvolution(self.frame_dim, config.num_channels, branch, pooling=pooling)
            for pooling in poolings
            for branch in BRANCHES
        )
        self.head = HEADS.build(
            config.head, input_dim=config.num_channels * len(self.convolutions), num_classes=num_classes
        )

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return torch.cat([convolution(frames, num_frames) for convolution in self.convolutions], dim=1)
