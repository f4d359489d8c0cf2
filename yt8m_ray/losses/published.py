"""Other published losses: two of probabilities from the starter code, and that of rated segments."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from yt8m_ray.components import LOSSES
from yt8m_ray.components.losses import HingeConfig, SampledConfig, SoftmaxConfig
from yt8m_ray.losses.base import MIN_SUM, Loss, bounded, cross_entropy, weighted


@LOSSES.register("hinge", HingeConfig)
class Hinge(Loss):
    """max(0, b - (2 y - 1) p) on probabilities, summed over classes, averaged over clips."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        signs = 2 * labels.float() - 1
        total = weighted(F.relu(self.config.margin - signs * torch.sigmoid(logits.float())), weights).sum()
        return total / max(logits.shape[0], 1)


@LOSSES.register("softmax", SoftmaxConfig)
class Softmax(Loss):
    """-(y / sum y) log softmax(p), summed over classes, mean over clips; as published on probabilities, not logits."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        labels = labels.float()
        # A clip without labels costs nothing.
        shares = labels / labels.sum(dim=1, keepdim=True).clamp(min=MIN_SUM)
        total = -weighted(shares * torch.log_softmax(torch.sigmoid(logits.float()), dim=1), weights).sum()
        return total / max(logits.shape[0], 1)


@LOSSES.register("sampled", SampledConfig)
class Sampled(Loss):
    """The cross-entropy of rated labels, summed and averaged over clips, and of unrated negatives, averaged over them.

    (1 / B) sum over rated (0.5 + y) BCE(z, y) + 0.5 sum(m softplus(z)) / sum(m), with m the mask of the negatives.
    """

    def forward(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
        negatives: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the loss.

        Args:
            logits, labels: [B, C].
            weights: Mask of the rated labels, one class a clip as published; None means that all are rated.
            negatives: Mask [B, C] of unrated negatives: neither labels of the video nor rated in any of its segments.
                None leaves that term out.
        """
        logits, labels = logits.float(), labels.float()
        positive, negative = self.config.positive_weight, self.config.negative_weight
        sides = negative + (positive - negative) * labels
        rated = cross_entropy(logits, labels, sides if weights is None else sides * weights.float())
        total = rated / max(logits.shape[0], 1)
        if negatives is not None:
            mask = negatives.float()
            unrated = (mask * F.softplus(bounded(logits))).sum() / mask.sum().clamp(min=MIN_SUM)
            total = total + self.config.unrated_weight * unrated
        return total
