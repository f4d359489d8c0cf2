"""Losses of independent classes: the cross-entropy and the focal loss, with label smoothing and weights of classes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from yt8m_ray.components import LOSSES
from yt8m_ray.components.losses import BinaryConfig, CrossEntropyConfig, FocalConfig
from yt8m_ray.losses.base import Loss, bounded, cross_entropy, weighted
from yt8m_ray.losses.class_weights import class_weights, read_class_counts


class BinaryLoss(Loss):
    """A sum over independent classes, with label smoothing and weights of classes."""

    def __init__(self, config: BinaryConfig) -> None:
        super().__init__(config)
        # No buffer: those of a criterion would have to be where DistributedDataParallel has the model's.
        self._class_weights: torch.Tensor | None = None
        if config.class_weights is not None:
            counts = read_class_counts(config.class_weights)
            self._class_weights = torch.from_numpy(class_weights(counts, most=config.max_class_weight)).float()

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        logits, labels = logits.float(), labels.float()
        if smoothing := self.config.label_smoothing:
            labels = labels * (1 - smoothing) + smoothing / 2
        if self._class_weights is not None:
            self.check_num_classes(logits.shape[1])
            self._class_weights = self._class_weights.to(logits.device)
            weights = self._class_weights if weights is None else weights.float() * self._class_weights
        return self._total(logits, labels, weights) / max(logits.shape[0], 1)

    def check_num_classes(self, num_classes: int) -> None:
        found = num_classes if self._class_weights is None else len(self._class_weights)
        if found != num_classes:
            raise ValueError(
                f"loss.class_weights: {self.config.class_weights} counts {found} classes, expected {num_classes}"
            )

    def _total(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError


@LOSSES.register("cross_entropy", CrossEntropyConfig)
class CrossEntropy(BinaryLoss):
    """-(y log(p + epsilon) + (1 - y) log(1 - p + epsilon)), summed over classes, averaged over clips."""

    def _total(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        epsilon = self.config.published_epsilon
        if epsilon == 0:
            return cross_entropy(logits, labels, weights)
        log_p = torch.log(torch.sigmoid(logits) + epsilon)
        log_not_p = torch.log(torch.sigmoid(-logits) + epsilon)
        return -weighted(labels * log_p + (1 - labels) * log_not_p, weights).sum()


@LOSSES.register("focal", FocalConfig)
class Focal(BinaryLoss):
    """-(alpha y (1 - p)^gamma log p + (1 - alpha) (1 - y) p^gamma log(1 - p)), summed over classes, mean over clips."""

    # For labels of 0 and 1 that is the paper's loss; soft ones weigh its two cases.

    def _total(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        gamma, alpha, logits = self.config.gamma, self.config.alpha, bounded(logits)
        positive_weight, negative_weight = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
        log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
        # Powers of a probability as exp of its logarithm: at 0 a power below 1 has an infinite slope.
        positive = positive_weight * labels * torch.exp(gamma * log_not_p) * log_p
        negative = negative_weight * (1 - labels) * torch.exp(gamma * log_p) * log_not_p
        return -weighted(positive + negative, weights).sum()
