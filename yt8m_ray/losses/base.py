"""The contract of a loss, the registry that builds one, and shared arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import LOSSES
from yt8m_ray.registry import ComponentConfig

# In place of infinity: what a wrong certainty costs.
INFINITE_LOGIT = 1e4
# The smallest divisor, as in the published softmax loss.
MIN_SUM = 1e-7


class Loss(nn.Module):
    """A loss; clips without labels count, and an empty batch gives 0.0 with a graph."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the scalar loss: the weighted sum of all elements' terms over the number of clips B.

        Logits are [B, C], labels float [B, C] in 0..1, multi-hot or soft. Weights multiply the terms: [B, 1] for
        weights of videos, [B, C] for a mask of rated labels.
        """
        raise NotImplementedError

    def check_num_classes(self, num_classes: int) -> None:
        """Raises ValueError where the loss is configured for another number of classes."""


def build_loss(config: Mapping[str, Any] | ComponentConfig) -> Loss:
    """Returns the loss of a config such as `{"name": "cross_entropy"}`.

    Raises ValueError where the config, or a file that it names, is invalid, OSError where the file cannot be read.
    """
    loss: Loss = LOSSES.build(config)
    return loss


def bounded(logits: torch.Tensor) -> torch.Tensor:
    """Returns logits with `INFINITE_LOGIT` where they are infinite."""
    return torch.nan_to_num(logits, nan=torch.nan, posinf=INFINITE_LOGIT, neginf=-INFINITE_LOGIT)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Returns the exact cross-entropy of float32 logits, summed over all elements."""
    return F.binary_cross_entropy_with_logits(bounded(logits), labels, weights, reduction="sum")


def weighted(terms: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Returns terms times their weights, or the terms themselves."""
    return terms if weights is None else terms * weights.float()
