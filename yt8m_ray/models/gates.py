"""Squeeze-and-excitation gates: layers that scale each unit by what all units of the same vector say."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.models.layers import BatchNorm, NormalizedBy, kaiming_linear, variance_scaling_linear

BatchNormFactory = Callable[[int], BatchNorm]  # from a number of channels
LinearFactory = Callable[[int, int], nn.Linear]  # from numbers of inputs and outputs


class SEGate(nn.Module):
    """y * sigmoid(relu(BN(y W1)) W2), without biases (Lin et al. 2018, arXiv:1811.05014)."""

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


class BatchNormSEGate(nn.Module):
    """x * sigmoid(W2 BN(relu(W1 BN(x) + b1)) + b2) (7th place of 2019), of vectors [B, dim] or frames [B, T, dim]."""

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
