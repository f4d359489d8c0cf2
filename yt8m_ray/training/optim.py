"""Optimizer, learning-rate schedule by examples, gradient clipping, and their state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from yt8m_ray.config.optimizer import OptimizerConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def build_optimizer(parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.Adam:
    """Returns Adam over `parameters`; `prepare_step` sets its learning rate before each step."""
    return torch.optim.Adam(
        parameters, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def prepare_step(optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, step: int, num_examples: int) -> None:
    """Sets what depends on how far the run is.

    Args:
        optimizer: What `build_optimizer` returned.
        config: Its config.
        step: The step to be taken, from 1.
        num_examples: Examples seen before it.
    """
    epsilon = config.epsilon
    if config.epsilon_hat:
        # torch: lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + e); published: lr sqrt(1 - b2^t) / (1 - b1^t) * m /
        # (sqrt(v) + e^). They are one with e = e^ / sqrt(1 - b2^t).
        epsilon /= math.sqrt(1 - config.beta2**step)
    for group in optimizer.param_groups:
        group["lr"], group["eps"] = learning_rate(config, num_examples), epsilon


def learning_rate(config: OptimizerConfig, num_examples: int) -> float:
    """Returns base * factor ** floor(examples seen / period): independent of the number of workers."""
    return config.learning_rate * config.decay_factor ** (num_examples // config.decay_examples)


def clip_each_gradient(parameters: Iterable[torch.nn.Parameter], bound: float) -> None:
    """Scales each gradient whose own L2 norm exceeds `bound` down to it; 0 leaves all as they are.

    Published systems clip every variable by itself, which is not `torch.nn.utils.clip_grad_norm_`.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if bound <= 0 or not gradients:
        return
    scales = [bound / torch.clamp_min(norm, bound) for norm in torch._foreach_norm(gradients)]
    torch._foreach_mul_(gradients, scales)


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str]
) -> dict[str, torch.Tensor]:
    """Returns the moments as `exp_avg.<parameter name>` and so on."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for parameter, name in names.items()
        for moment in _MOMENTS
        if parameter in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Puts the moments that `optimizer_state` returned back; parameters that never had a step stay without."""
    for parameter, name in names.items():
        if f"step.{name}" in tensors:
            optimizer.state[parameter] = {
                # `step` stays on the CPU, where torch keeps it.
                moment: tensors[f"{moment}.{name}"].to("cpu" if moment == "step" else parameter.device, copy=True)
                for moment in _MOMENTS
            }
