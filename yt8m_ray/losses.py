"""Losses: logits and labels [B, C] to a scalar, summed over classes and averaged over clips.

Lives here: the losses, their configs and the registry `LOSSES`. Does not live here: the l2 term (a model's
`regularization`) and distillation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic
import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.registry import ComponentConfig, Registry

INFINITE_LOGIT = 1e4
"""What an infinite logit counts as: a wrong certainty costs this much instead of infinity."""

MIN_LABEL_SUM = 1e-7
"""What the published softmax loss divides by at least."""


class Loss(nn.Module):
    """A loss; clips without labels count, and an empty batch gives 0.0 with a graph."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the scalar loss of logits [B, C] against labels float [B, C] in 0..1, multi-hot or soft."""
        raise NotImplementedError


LOSSES: Registry[Loss] = Registry("loss")


def build_loss(config: Mapping[str, Any] | ComponentConfig) -> Loss:
    """Returns the loss that a config such as `{"name": "cross_entropy"}` describes; ValueError where it is invalid."""
    return LOSSES.build(config)


class CrossEntropyConfig(ComponentConfig):
    """The cross-entropy of independent classes.

    Attributes:
        published_epsilon: 0 is the exact cross-entropy of the logits; the published systems add 1e-5 to the arguments
            of both logarithms, which bounds the loss of a class at 11.5 and lets gradients of certain errors vanish.
    """

    name: Literal["cross_entropy"] = "cross_entropy"
    published_epsilon: float = pydantic.Field(default=0.0, ge=0, lt=1)


@LOSSES.register("cross_entropy", CrossEntropyConfig)
class CrossEntropy(Loss):
    """-(y log(p + epsilon) + (1 - y) log(1 - p + epsilon)), summed over classes, averaged over clips."""

    def __init__(self, config: CrossEntropyConfig) -> None:
        super().__init__()
        self.epsilon = config.published_epsilon

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits, labels = logits.float(), labels.float()
        if self.epsilon == 0:
            logits = torch.nan_to_num(logits, nan=torch.nan, posinf=INFINITE_LOGIT, neginf=-INFINITE_LOGIT)
            total = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        else:
            log_p = torch.log(torch.sigmoid(logits) + self.epsilon)
            log_not_p = torch.log(torch.sigmoid(-logits) + self.epsilon)
            total = -(labels * log_p + (1 - labels) * log_not_p).sum()
        return total / max(logits.shape[0], 1)


class HingeConfig(ComponentConfig):
    """The published hinge loss.

    Attributes:
        margin: b.
    """

    name: Literal["hinge"] = "hinge"
    margin: float = pydantic.Field(default=1.0, gt=0)


@LOSSES.register("hinge", HingeConfig)
class Hinge(Loss):
    """max(0, b - (2 y - 1) p) on probabilities, summed over classes, averaged over clips."""

    def __init__(self, config: HingeConfig) -> None:
        super().__init__()
        self.margin = config.margin

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        signs = 2 * labels.float() - 1
        total = F.relu(self.margin - signs * torch.sigmoid(logits.float())).sum()
        return total / max(logits.shape[0], 1)


class SoftmaxConfig(ComponentConfig):
    """The published softmax loss."""

    name: Literal["softmax"] = "softmax"


@LOSSES.register("softmax", SoftmaxConfig)
class Softmax(Loss):
    """-(y / sum y) log softmax(p), summed over classes, averaged over clips; as published on probabilities, not logits.

    A clip without labels costs nothing.
    """

    def __init__(self, config: SoftmaxConfig) -> None:
        super().__init__()

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        labels = labels.float()
        shares = labels / labels.sum(dim=1, keepdim=True).clamp(min=MIN_LABEL_SUM)
        total = -(shares * torch.log_softmax(torch.sigmoid(logits.float()), dim=1)).sum()
        return total / max(logits.shape[0], 1)
