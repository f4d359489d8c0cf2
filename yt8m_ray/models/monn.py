"""Mixtures of neural-network experts on statistics of the frames, You8M's MoNN family (5th place of 2017)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import MODELS
from yt8m_ray.components.models import MoNNConfig, Statistic
from yt8m_ray.models.base import Model
from yt8m_ray.models.heads import Head, half_sum_of_squares
from yt8m_ray.models.layers import glorot_linear, mask_frames, mixture_logits

# The published feature is (n - 151) / 300.
MIDDLE_NUM_FRAMES, NUM_FRAMES_SCALE = 151, 300


def statistics_of(
    frames: torch.Tensor, num_frames: torch.Tensor, statistics: Sequence[Statistic], feature_sizes: Sequence[int]
) -> torch.Tensor:
    """Returns statistics of the real frames of `frames` [B, T, D] in order [B, S], in float32; zeros without frames."""
    frames, mask = mask_frames(frames.float(), num_frames)
    count = num_frames.clamp(min=1).unsqueeze(1)
    mean = frames.sum(dim=1) / count

    def compute(statistic: Statistic) -> torch.Tensor:
        match statistic:
            case "mean":
                return mean
            case "cube_root_moment":
                moment = frames.pow(3).sum(dim=1) / count
                return moment.sign() * moment.abs().pow(1 / 3)
            case "std":
                return (((frames - mean.unsqueeze(1)) * mask.unsqueeze(2)).square().sum(dim=1) / count).sqrt()
            case "num_frames":
                scaled = (num_frames.unsqueeze(1) - MIDDLE_NUM_FRAMES) / NUM_FRAMES_SCALE
                return scaled * (num_frames > 0).unsqueeze(1)
            case "std_all":
                parts = [_std_of_all(part, mask, count) for part in frames.split(list(feature_sizes), dim=2)]
                return torch.cat(parts, dim=1)

    return torch.cat([compute(statistic) for statistic in statistics], dim=1)


def _std_of_all(feature: torch.Tensor, mask: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    num_values = count * feature.shape[2]
    mean = feature.sum(dim=(1, 2)).unsqueeze(1) / num_values
    centred = (feature - mean.unsqueeze(2)) * mask.unsqueeze(2)
    return (centred.square().sum(dim=(1, 2)).unsqueeze(1) / num_values).sqrt()


class MoNNHead(Head):
    """A mixture whose gates read the statistics, and its experts relu layers on them; columns as in `MoEHead`."""

    def __init__(self, config: MoNNConfig, *, input_dim: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        dims = (input_dim, *config.hidden_dims)
        self.layers = nn.ModuleList(itertools.starmap(glorot_linear, itertools.pairwise(dims)))
        self.gates = glorot_linear(input_dim, num_classes * (config.num_mixtures + 1), bias=False)
        self.experts = glorot_linear(dims[-1], num_classes * config.num_mixtures)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        num_mixtures = self.config.num_mixtures
        hidden = inputs
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return mixture_logits(
            self.gates(inputs).unflatten(1, (-1, num_mixtures + 1)),
            self.experts(hidden).unflatten(1, (-1, num_mixtures)),
        )

    def regularization(self) -> torch.Tensor:
        layers = [*self.layers, self.gates, self.experts]
        return self.config.l2 * half_sum_of_squares([layer.weight for layer in layers])


@MODELS.register("monn", MoNNConfig)
class MoNNModel(Model):
    """Statistics of the frames, and a mixture of neural-network experts on them."""

    def __init__(self, config: MoNNConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        self.statistics = config.statistics
        sizes = {"num_frames": 1, "std_all": len(feature_sizes)}
        input_dim = sum(sizes.get(statistic, self.frame_dim) for statistic in config.statistics)
        self.head = MoNNHead(config, input_dim=input_dim, num_classes=num_classes)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return statistics_of(frames, num_frames, self.statistics, self.feature_sizes)
