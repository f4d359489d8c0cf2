"""The other losses of the starter code, both of probabilities."""

from __future__ import annotations

from typing import Literal

import pydantic
import torch
from torch.nn import functional as F

from yt8m_ray.losses.base import LOSSES, MIN_SUM, Loss, weighted
from yt8m_ray.registry import ComponentConfig


class HingeConfig(ComponentConfig):
    """The published hinge loss; `margin` is b."""

    name: Literal["hinge"] = "hinge"
    margin: float = pydantic.Field(default=1.0, gt=0)


@LOSSES.register("hinge", HingeConfig)
class Hinge(Loss):
    """max(0, b - (2 y - 1) p) on probabilities, summed over classes, averaged over clips."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        signs = 2 * labels.float() - 1
        total = weighted(F.relu(self.config.margin - signs * torch.sigmoid(logits.float())), weights).sum()
        return total / max(logits.shape[0], 1)


class SoftmaxConfig(ComponentConfig):
    """The published softmax loss."""

    name: Literal["softmax"] = "softmax"


@LOSSES.register("softmax", SoftmaxConfig)
class Softmax(Loss):
    """-(y / sum y) log softmax(p), summed over classes, averaged over clips; as published on probabilities, not logits.

    A clip without labels costs nothing.
    """

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        labels = labels.float()
        shares = labels / labels.sum(dim=1, keepdim=True).clamp(min=MIN_SUM)
        total = -weighted(shares * torch.log_softmax(torch.sigmoid(logits.float()), dim=1), weights).sum()
        return total / max(logits.shape[0], 1)
