"""Chained mixtures of experts, the DeepCombineChain of the 2017 runner-up (Wang et al. 2017, arXiv:1706.05150)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components import HEADS, MODELS
from yt8m_ray.components.models import DeepCombineChainConfig
from yt8m_ray.models.base import Criterion, Model
from yt8m_ray.models.layers import glorot_linear, l2_normalize, masked_mean


@MODELS.register("deep_combine_chain", DeepCombineChainConfig)
class DeepCombineChain(Model):
    """Classifiers in a row, each of which reads the clip's mean frame and the predictions of all before it."""

    def __init__(self, config: DeepCombineChainConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        self.support_weight = config.support_weight
        input_dims = [self.frame_dim + layer * config.relu_dim for layer in range(config.num_layers + 1)]
        *supports, self.head = (
            HEADS.build(config.head, input_dim=input_dim, num_classes=num_classes) for input_dim in input_dims
        )
        self.supports = nn.ModuleList(supports)
        self.compressions = nn.ModuleList(glorot_linear(num_classes, config.relu_dim) for _ in supports)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return self._run_chain(frames, num_frames)[0]

    def loss(
        self, frames: torch.Tensor, num_frames: torch.Tensor, labels: torch.Tensor, criterion: Criterion
    ) -> torch.Tensor:
        """Returns the weighted mean of the last classifier's loss and the sum of the others'."""
        inputs, supports = self._run_chain(frames, num_frames)
        loss = criterion(self.head(inputs).float(), labels)
        support_loss = torch.stack([criterion(logits.float(), labels) for logits in supports]).sum()
        return (1 - self.support_weight) * loss + self.support_weight * support_loss

    def _run_chain(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the inputs of the last classifier, and the logits of those before it."""
        inputs, predictions = masked_mean(frames, num_frames), []
        for support, compression in zip(self.supports, self.compressions, strict=True):
            # A prediction [B, C] is passed on as l2(relu(p W + b)) [B, relu_dim].
            predictions.append(support(inputs))
            compressed = l2_normalize(F.relu(compression(torch.sigmoid(predictions[-1]))), dim=1)
            inputs = torch.cat([inputs, compressed], dim=1)
        return inputs, predictions
