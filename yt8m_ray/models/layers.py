"""Layers that the model families share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.distributed
from torch import nn
from torch.nn import functional as F

from yt8m_ray.components.models import BATCH_NORM_MOMENTUM

L2_NORMALIZE_EPSILON = 1e-12  # smallest squared norm that TensorFlow's l2_normalize divides by

# Defaults of slim.batch_norm, which no published TensorFlow system changes.
BATCH_NORM_EPSILON = 1e-3

# Defaults of torch.nn.BatchNorm1d, which the 2019 systems written in torch do not change.
TORCH_BATCH_NORM_EPSILON = 1e-5

# TensorFlow's averages that count their updates take a share of 9 / (10 + n) where that is more than the plain one.
WARM_UP = 9

# Updates after which no warm-up is left.
SETTLED = 1 << 40

# The log of a gate of 0: beyond every logit, with a gradient where -inf has none.
LOG_OF_NOTHING = -1e30

# `normalized_by` of a module: names of linear layers whose output only a batch norm reads, with its name.
NormalizedBy = Mapping[str, str]


class Regularized(nn.Module):
    """A layer with a published l2 term, which `Model.regularization` adds up."""

    def regularization(self) -> torch.Tensor:
        """Returns l2 * 0.5 * sum(W^2) over the layer's regularized weights."""
        raise NotImplementedError


def mask_frames(frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns `frames` [B, T, D] with padding zeroed, and the mask of real frames, bool [B, T]."""
    mask = torch.arange(frames.shape[1], device=frames.device) < num_frames.unsqueeze(1)
    if _lengths_can_be_read(frames) and bool(mask.all()):
        # A single clip never has padding, and pays as much for the copy as for its frames.
        return frames, mask
    return torch.where(mask.unsqueeze(2), frames, 0.0), mask


def masked_mean(frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Returns the mean over the real frames [B, D]; zeros for a clip without frames."""
    if _lengths_can_be_read(frames):
        # A fifth of the passes over memory.
        sums = torch.stack([clip[:count].sum(dim=0) for clip, count in zip(frames, num_frames.tolist(), strict=True)])
    else:
        sums = mask_frames(frames, num_frames)[0].sum(dim=1)
    return sums / num_frames.clamp(min=1).unsqueeze(1)


def _lengths_can_be_read(frames: torch.Tensor) -> bool:
    """Returns whether Python may read lengths: there are clips, on the CPU, neither compiled nor for a gradient."""
    here_and_now = type(frames) is torch.Tensor and frames.device.type == "cpu" and not torch.compiler.is_compiling()
    return here_and_now and not torch.is_grad_enabled() and len(frames) > 0


def l2_normalize(inputs: torch.Tensor, dim: int) -> torch.Tensor:
    """Returns `inputs` scaled to norm 1 along `dim`, in float32; zeros stay zeros."""
    inputs = inputs.float()
    return inputs * torch.rsqrt(inputs.square().sum(dim=dim, keepdim=True).clamp(min=L2_NORMALIZE_EPSILON))


def _empty_linear(input_dim: int, output_dim: int, *, bias: bool) -> nn.Linear:
    """Returns a linear layer with any weights, and biases 0."""
    # torch draws its own initial weights, which takes seconds for a NetVLAD: build without storage, then allocate.
    linear = nn.Linear(input_dim, output_dim, bias=bias, device="meta")
    linear = linear.to_empty(device=torch.get_default_device())
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def glorot_linear(input_dim: int, output_dim: int, *, bias: bool = True) -> nn.Linear:
    """Returns the published fully connected layer: weights uniform in +-sqrt(6 / (input + output)), biases 0."""
    linear = _empty_linear(input_dim, output_dim, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def normal_linear(input_dim: int, output_dim: int, *, std: float, bias_std: float | None = None) -> nn.Linear:
    """Returns a linear layer with weights N(0, std), not truncated, and biases N(0, bias_std) or none."""
    linear = _empty_linear(input_dim, output_dim, bias=bias_std is not None)
    nn.init.normal_(linear.weight, std=std)
    if bias_std:
        nn.init.normal_(linear.bias, std=bias_std)
    return linear


def kaiming_linear(input_dim: int, output_dim: int, *, bias: bool = True) -> nn.Linear:
    """Returns a linear layer with weights N(0, sqrt(2 / input)), not truncated, and biases 0."""
    return normal_linear(input_dim, output_dim, std=math.sqrt(2 / input_dim), bias_std=0.0 if bias else None)


def variance_scaling_(weights: torch.Tensor, *, fan_in: int) -> torch.Tensor:
    """Fills `weights` as slim.variance_scaling_initializer does: normal, truncated at two deviations."""
    std = math.sqrt(1.3 * 2 / fan_in)
    return nn.init.trunc_normal_(weights, std=std, a=-2 * std, b=2 * std)


def variance_scaling_linear(input_dim: int, output_dim: int, *, bias: bool = True) -> nn.Linear:
    """Returns a linear layer with weights of `variance_scaling_` and biases 0."""
    linear = _empty_linear(input_dim, output_dim, bias=bias)
    variance_scaling_(linear.weight, fan_in=input_dim)
    return linear


def diagonal_of(linear: nn.Module) -> torch.Tensor:
    """Returns the diagonal of a square linear layer's matrix, or of a bundle's quantized layer."""
    diagonal: torch.Tensor = linear.weight.diagonal() if isinstance(linear, nn.Linear) else linear.diagonal  # type: ignore[assignment]
    return diagonal


class _SumOverWorkers(torch.autograd.Function):
    # Every worker's loss depends on the sum, so its gradient is such a sum too. torch 2.13's own differentiable
    # all_reduce is deprecated and cannot be compiled.

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:  # noqa: ARG004, autograd's signature
        total = inputs.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _sum_rows(inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Returns the sum [C] over all rows of `inputs` [..., C], or over those of [B, T, C] that `mask` [B, T] keeps."""
    if mask is None:
        return inputs.sum(dim=tuple(range(inputs.dim() - 1)))
    # One pass, no masked copy.
    return torch.bmm(mask.to(inputs.dtype).unsqueeze(1), inputs).sum(dim=(0, 1))


class BatchNorm(nn.Module):
    """Batch normalization of slim.batch_norm, over all axes but the last, in float32.

    In training the statistics are those of the rows that `mask` keeps, and with `synchronized` those of the global
    batch, however unequal the workers' numbers of rows (0 is legal). A batch has the share `momentum` in the moving
    statistics. Scale, shift and statistics are [C].
    """

    moving_mean: torch.Tensor
    moving_variance: torch.Tensor

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = BATCH_NORM_MOMENTUM,
        epsilon: float = BATCH_NORM_EPSILON,
        unbiased_moving_variance: bool = True,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        # Normalizing uses the biased variance. The moving one is unbiased in TensorFlow's fused kernel, for inputs of
        # rank 2, and biased in its other one, for rank 3.
        self.unbiased_moving_variance = unbiased_moving_variance
        self.synchronized = True
        self.gamma = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))
        self.register_buffer("moving_mean", torch.zeros(dim))
        self.register_buffer("moving_variance", torch.ones(dim))
        # No buffer: it is no variable of the model. A tensor, so that a compiled model does not depend on its value.
        self._num_updates = torch.tensor(SETTLED, device="cpu")

    @property
    def num_updates(self) -> int:
        """Updates of the moving statistics, from which their warm-up follows."""
        return int(self._num_updates)

    def set_num_updates(self, num_updates: int) -> None:
        """Sets the number of updates; 0 begins a warm-up."""
        self._num_updates.fill_(num_updates)

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the normalized inputs [..., C]; rows of [B, T, C] outside `mask` [B, T] are in no statistic."""
        with torch.autocast(inputs.device.type, enabled=False):
            if self.training:
                return self._normalize_by_batch(inputs.float(), mask)
            # One pass over the inputs.
            scale = self.gamma * torch.rsqrt(self.moving_variance + self.epsilon)
            return torch.addcmul(self.beta - self.moving_mean * scale, inputs.float(), scale)

    def _normalize_by_batch(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        num_rows = inputs.new_full((1,), inputs.shape[:-1].numel()) if mask is None else mask.sum().reshape(1)
        sums = self._sum_over_workers(torch.cat([_sum_rows(inputs, mask), num_rows.to(inputs.dtype)]))
        count = sums[-1].detach()
        mean = sums[:-1] / count.clamp(min=1)
        # The variance comes from centred values: E[x^2] - E[x]^2 would cancel where the mean is large.
        centred = inputs - mean
        variance = self._sum_over_workers(_sum_rows(centred.square(), mask)) / count.clamp(min=1)
        self._update_moving(mean.detach(), variance.detach(), count)
        return torch.addcmul(self.beta, centred, self.gamma * torch.rsqrt(variance + self.epsilon))

    @torch.no_grad()
    def _update_moving(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        if self.unbiased_moving_variance:
            variance = variance * count / (count - 1).clamp(min=1)
        share = (WARM_UP / (WARM_UP + 1 + self._num_updates)).clamp(min=self.momentum)
        # A step without rows leaves the moving statistics alone.
        momentum = share.to(mean.device, non_blocking=True) * (count > 0)
        self._num_updates += 1
        self.moving_mean += momentum * (mean - self.moving_mean)
        self.moving_variance += momentum * (variance - self.moving_variance)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        # A state without statistics leaves them at their start, to warm up.
        if f"{prefix}moving_mean" in state_dict:
            self.set_num_updates(SETTLED)

    def _sum_over_workers(self, values: torch.Tensor) -> torch.Tensor:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not (self.synchronized and distributed) or torch.distributed.get_world_size() == 1:
            return values
        total: torch.Tensor = _SumOverWorkers.apply(values)  # type: ignore[no-untyped-call]
        return total


BatchNormFactory = Callable[[int], BatchNorm]  # from a number of channels


def set_batch_norm_updates(model: nn.Module, num_updates: int = SETTLED) -> None:
    """Sets the number of updates of all batch normalizations: 0 for a new model, the default for no warm-up."""
    # Update n, from 0, has the share max(momentum, 9 / (10 + n)), TensorFlow's rule for averages that count updates.
    # With the published momentum of 0.001 alone, the arbitrary start is felt for some 7,000 steps, and a model that was
    # trained for less cannot be evaluated.
    for module in batch_norms(model).values():
        module.set_num_updates(num_updates)


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Returns all batch normalizations of `model` by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm)}


def set_batch_norm_sync(model: nn.Module, enabled: bool) -> None:
    """Sets whether workers share the statistics of all batch normalizations; a new model's do."""
    for module in batch_norms(model).values():
        module.synchronized = enabled


class ContextGating(nn.Module):
    """x * sigmoid(BN(x W)), or of x W + b, optionally without W's diagonal (Miech et al. 2017, arXiv:1706.06905)."""

    normalized_by: ClassVar[NormalizedBy] = {"gate": "gate_bn"}

    def __init__(self, dim: int, *, remove_diagonal: bool, batch_norm: bool, batch_norm_momentum: float) -> None:
        super().__init__()
        std = 1 / math.sqrt(dim)
        self.remove_diagonal = remove_diagonal
        self.gate = normal_linear(dim, dim, std=std, bias_std=None if batch_norm else std)
        self.gate_bn = BatchNorm(dim, momentum=batch_norm_momentum) if batch_norm else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the gated inputs [B, dim]."""
        gate = self.gate(inputs)
        if self.remove_diagonal:
            gate = gate - inputs * diagonal_of(self.gate)
        if self.gate_bn is not None:
            gate = self.gate_bn(gate)
        return inputs * torch.sigmoid(gate)


def mixture_logits(log_gates: torch.Tensor, expert_logits: torch.Tensor) -> torch.Tensor:
    """Returns the logits [...] of the probabilities sum_m gate_m * sigmoid(expert_m), in float32.

    Args:
        log_gates: [..., M], or [..., M + 1] with a last gate for the dummy expert, which predicts probability 0.
            Broadcast against the experts; -inf switches an expert off.
        expert_logits: [..., M], finite.
    """
    log_gates, expert_logits = log_gates.float(), expert_logits.float()
    num_experts = expert_logits.shape[-1]
    if log_gates.shape[-1] not in (num_experts, num_experts + 1):
        raise ValueError(f"{num_experts} experts need {num_experts} gates or one more, found {log_gates.shape[-1]}")
    # From log p and log(1 - p), so that p next to 0 or 1 keeps its digits and its gradient. A common factor of the
    # gates is in both and cancels: they need not add up to 1.
    # One contiguous plane an expert: on a CPU, sums over a last axis of 2 or 3 take ten times as long.
    leading = (1,) * (expert_logits.dim() - log_gates.dim())
    gates = log_gates.clamp(min=LOG_OF_NOTHING).reshape(*leading, *log_gates.shape).movedim(-1, 0).contiguous()
    experts = expert_logits.movedim(-1, 0).contiguous()
    positive = gates[:num_experts] + F.logsigmoid(experts)
    # log(1 - sigmoid(x)) = log(sigmoid(x)) - x
    negative = positive - experts
    log_p: torch.Tensor = functools.reduce(torch.logaddexp, positive)
    log_not_p: torch.Tensor = functools.reduce(torch.logaddexp, [*negative, *gates[num_experts:]])
    return log_p - log_not_p


def gated_logits(logits: torch.Tensor, gate_logits: torch.Tensor) -> torch.Tensor:
    """Returns the logits of sigmoid(logits) * sigmoid(gate_logits), in float32."""
    logits, gate_logits = logits.float(), gate_logits.float()
    log_p = F.logsigmoid(logits)
    log_not_p = torch.logaddexp(F.logsigmoid(-logits), log_p + F.logsigmoid(-gate_logits))
    return log_p + F.logsigmoid(gate_logits) - log_not_p
