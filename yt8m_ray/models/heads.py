"""Classifiers from a clip's representation [B, D] to logits [B, C], which every family ends with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from yt8m_ray.components import HEADS
from yt8m_ray.components.heads import LogisticFields, LogisticHeadConfig, MoEFields, MoEHeadConfig
from yt8m_ray.components.models import BATCH_NORM_MOMENTUM
from yt8m_ray.models.layers import (
    BatchNorm,
    NormalizedBy,
    Regularized,
    diagonal_of,
    gated_logits,
    glorot_linear,
    mixture_logits,
    normal_linear,
)


class Head(Regularized):
    """A classifier of representations: `forward(inputs [B, D]) -> logits [B, C]`."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, C]."""
        raise NotImplementedError

    def set_class_prior(self, probabilities: torch.Tensor) -> None:
        """Sets the biases so that an input of zeros has these probabilities [C], each in (0, 1)."""
        raise NotImplementedError


def half_sum_of_squares(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns 0.5 * sum(W^2), what the published l2 terms multiply."""
    # The gradient of W . stop(W) is W, as that of 0.5 * sum(W^2) is: two passes over the weights in place of six.
    squares = torch.stack([torch.dot(weight.flatten(), weight.detach().flatten()) for weight in weights]).sum()
    return squares - 0.5 * squares.detach()


def _set_bias(linear: nn.Linear, probabilities: torch.Tensor) -> None:
    with torch.no_grad():
        linear.bias.copy_(torch.logit(probabilities))


@HEADS.register("logistic", LogisticHeadConfig)
class LogisticHead(Head):
    """One linear layer."""

    def __init__(
        self,
        config: LogisticFields,
        *,
        input_dim: int,
        num_classes: int,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    ) -> None:
        super().__init__()
        self.l2 = config.l2
        self.l2_on_biases = config.l2_on_biases
        self.linear = glorot_linear(input_dim, num_classes)
        if config.initial_probability is not None:
            self.set_class_prior(torch.full((num_classes,), config.initial_probability))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(inputs)
        return logits

    def regularization(self) -> torch.Tensor:
        regularized = [self.linear.weight, self.linear.bias] if self.l2_on_biases else [self.linear.weight]
        return self.l2 * half_sum_of_squares(regularized)

    def set_class_prior(self, probabilities: torch.Tensor) -> None:
        _set_bias(self.linear, probabilities)


@HEADS.register("moe", MoEHeadConfig)
class MoEHead(Head):
    """A mixture of logistic experts a class, with a dummy expert and without gate biases."""

    # Columns are class-major: expert m of class c is column c * M + m, its gate c * (M + 1) + m.

    normalized_by: ClassVar[NormalizedBy] = {"prob_gate": "prob_gate_bn"}

    def __init__(
        self,
        config: MoEFields,
        *,
        input_dim: int,
        num_classes: int,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    ) -> None:
        super().__init__()
        self.config = config
        num_gates = num_classes * (config.num_mixtures + 1)
        rank = config.low_rank
        self.gate_projection = None if rank is None else glorot_linear(input_dim, rank, bias=False)
        self.gates = glorot_linear(input_dim if rank is None else rank, num_gates, bias=False)
        self.experts = glorot_linear(input_dim, num_classes * config.num_mixtures)
        self.prob_gate: nn.Linear | None = None
        self.prob_gate_bn: BatchNorm | None = None
        if config.prob_gating != "none":
            gate_input_dim = num_classes if config.prob_gating == "prob" else input_dim
            self.prob_gate = normal_linear(gate_input_dim, num_classes, std=1 / math.sqrt(num_classes))
            self.prob_gate_bn = BatchNorm(num_classes, momentum=batch_norm_momentum)
        if config.initial_probability is not None:
            self.set_class_prior(torch.full((num_classes,), config.initial_probability))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        num_mixtures = self.config.num_mixtures
        gates = self.gates(inputs if self.gate_projection is None else self.gate_projection(inputs))
        logits = mixture_logits(
            gates.unflatten(1, (-1, num_mixtures + 1)), self.experts(inputs).unflatten(1, (-1, num_mixtures))
        )
        return self._gate_probabilities(logits, inputs)

    def _gate_probabilities(self, logits: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        if self.prob_gate is None or self.prob_gate_bn is None:
            return logits
        if self.config.prob_gating == "input":
            return gated_logits(logits, self.prob_gate_bn(self.prob_gate(inputs)))
        probabilities = torch.sigmoid(logits)
        gate = self.prob_gate(probabilities)
        if self.config.prob_gating_remove_diagonal:
            gate = gate - probabilities * diagonal_of(self.prob_gate)
        return gated_logits(logits, self.prob_gate_bn(gate))

    def regularization(self) -> torch.Tensor:
        weights = [self.gates.weight, self.experts.weight]
        if self.gate_projection is not None:
            weights.append(self.gate_projection.weight)
        return self.config.l2 * half_sum_of_squares(weights)

    def set_class_prior(self, probabilities: torch.Tensor) -> None:
        # Untrained gates share out evenly between the experts and the dummy: p = sigmoid(bias) * M / (M + 1).
        experts = (probabilities / self.config.expert_share).clamp(max=1 - 1e-4)
        _set_bias(self.experts, experts.repeat_interleave(self.config.num_mixtures))
