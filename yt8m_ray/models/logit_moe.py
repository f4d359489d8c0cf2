"""The head that mixes its experts' logits, where the published mixture of experts mixes their probabilities."""

from __future__ import annotations

import torch
from torch import nn

from yt8m_ray.components import HEADS
from yt8m_ray.components.heads import LogitMoEHeadConfig
from yt8m_ray.components.models import TORCH_BATCH_NORM_MOMENTUM
from yt8m_ray.models.heads import Head, half_sum_of_squares
from yt8m_ray.models.layers import TORCH_BATCH_NORM_EPSILON, BatchNorm, kaiming_linear


@HEADS.register("logit_moe", LogitMoEHeadConfig)
class LogitMoEHead(Head):
    """logit_c = sum_m gate_{c,m} * E_{c,m}, the gates a softmax of M + 1; the last expert's logit is 0."""

    # That pulls towards a probability of one half, where the dummy of `moe` predicts 0. Columns are class-major: expert
    # m of class c is column c * M + m, its gate c * (M + 1) + m.

    def __init__(
        self,
        config: LogitMoEHeadConfig,
        *,
        input_dim: int,
        num_classes: int,
        batch_norm_momentum: float = TORCH_BATCH_NORM_MOMENTUM,
    ) -> None:
        super().__init__()
        self.config = config
        self.expert_bn: BatchNorm | None = None
        self.gate_bn: BatchNorm | None = None
        if config.batch_norm:
            self.expert_bn, self.gate_bn = (
                BatchNorm(input_dim, momentum=batch_norm_momentum, epsilon=TORCH_BATCH_NORM_EPSILON) for _ in range(2)
            )
        self.dropout = nn.Dropout(config.dropout)
        self.experts = kaiming_linear(input_dim, num_classes * config.num_mixtures)
        self.gates = kaiming_linear(input_dim, (num_classes if config.per_class else 1) * (config.num_mixtures + 1))
        if config.initial_probability is not None:
            self.set_class_prior(torch.full((num_classes,), config.initial_probability))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        num_mixtures = self.config.num_mixtures
        experts = self.experts(self.dropout(inputs if self.expert_bn is None else self.expert_bn(inputs)))
        gates = self.gates(self.dropout(inputs if self.gate_bn is None else self.gate_bn(inputs)))
        shares = torch.softmax(gates.float().unflatten(1, (-1, num_mixtures + 1)), dim=2)[:, :, :num_mixtures]
        logits: torch.Tensor = (experts.float().unflatten(1, (-1, num_mixtures)) * shares).sum(dim=2)
        return logits

    def regularization(self) -> torch.Tensor:
        return self.config.l2 * half_sum_of_squares([self.gates.weight, self.experts.weight])

    def set_class_prior(self, probabilities: torch.Tensor) -> None:
        # Untrained gates share out evenly: the experts' common logit is scaled by M / (M + 1).
        num_mixtures = self.config.num_mixtures
        logits = torch.logit(probabilities) * (num_mixtures + 1) / num_mixtures
        with torch.no_grad():
            self.experts.bias.copy_(logits.repeat_interleave(num_mixtures))
