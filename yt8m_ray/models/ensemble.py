"""A weighted ensemble of models, itself a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from yt8m_ray.models.base import Model
from yt8m_ray.models.layers import mixture_logits

# Of the weights' sum to 1, as in the 2018 ensembles.
WEIGHT_TOLERANCE = 1e-4


class Ensemble(Model):
    """The weighted mean of the probabilities of models of the same inputs and classes, as logits."""

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
        # One after the other: torch divides every operation among the process's threads already.
        return self.combine([member(frames, num_frames) for member in self.members])

    def combine(self, member_logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the logits of the mean probability from the members' logits."""
        if len(member_logits) == 1:
            return member_logits[0]
        # A mixture of experts whose gates are constant.
        return mixture_logits(self.log_weights, torch.stack(list(member_logits), dim=-1))
