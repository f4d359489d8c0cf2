"""A weighted ensemble, which is a model: evaluated, quantized, distilled from and served like one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from yt8m_ray.models.base import Model
from yt8m_ray.models.layers import mixture_logits

WEIGHT_TOLERANCE = 1e-4
"""How far the sum of the weights may lie from 1 (the 2018 ensembles allowed the same)."""


class Ensemble(Model):
    """The arithmetic mean of the members' probabilities, weighted, returned as logits.

    A mixture of experts whose gates are constant, so it is computed from log p and log(1 - p) like one.

    Members share the batch, which was decoded, normalized and padded once, and run one after the other: torch divides
    every operation among the threads of the process already, and threads for members would have no other cores. Where
    a process has one thread, replicas and workers run side by side.

    Args:
        members: Models of the same inputs and classes, run one after the other.
        weights: One positive share a member; their sum is 1.
    """

    log_weights: torch.Tensor

    def __init__(self, members: Sequence[Model], weights: Sequence[float]) -> None:
        if not members or len(members) != len(weights):
            raise ValueError(f"ensemble: expected one weight a member, found {len(members)} and {len(weights)} weights")
        if min(weights) <= 0 or abs(sum(weights) - 1) > WEIGHT_TOLERANCE:
            raise ValueError(f"ensemble: weights must be positive with the sum 1, found {list(weights)}")
        shapes = {(member.feature_sizes, member.num_classes) for member in members}
        if len(shapes) > 1:
            raise ValueError(f"ensemble: members must have the same features and classes, found {sorted(shapes)}")
        super().__init__(feature_sizes=members[0].feature_sizes, num_classes=members[0].num_classes)
        self.members = nn.ModuleList(members)
        log_weights = torch.tensor([math.log(weight) for weight in weights])
        self.register_buffer("log_weights", log_weights, persistent=False)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, C] of the mean probability."""
        return self.combine([member(frames, num_frames) for member in self.members])

    def combine(self, member_logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns what `forward` returns, from the members' logits."""
        if len(member_logits) == 1:
            return member_logits[0]
        return mixture_logits(self.log_weights, torch.stack(list(member_logits), dim=-1))
