"""Optimizer, learning rate by examples seen, gradient clipping, and the optimizer's state as named tensors."""

from __future__ import annotations

import fnmatch
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from yt8m_ray.config.optimizer import OptimizerConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError

logger = logging.getLogger(__name__)

_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
# What each optimizer keeps of a parameter.
_STATE = {"adam": _ADAM_STATE, "adamw": _ADAM_STATE, "sgd": ("momentum_buffer",)}


def build_optimizer(parameters: Mapping[str, torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of parameters by name; ConfigError where a pattern fits none, or none is left to train."""
    _check_patterns("learning_rate_factors", config.learning_rate_factors, parameters)
    _check_patterns("no_weight_decay", config.no_weight_decay, parameters)
    # A group for each pair of rate and decay, not for each parameter: torch updates a group by one kernel.
    members: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            key = (_rate_factor(name, config), _weight_decay(name, parameter, config))
            members.setdefault(key, []).append(parameter)
    if not members:
        raise ConfigError("optimizer.learning_rate_factors: all parameters are frozen")
    groups = [{"params": these, "factor": key[0], "weight_decay": key[1]} for key, these in members.items()]
    options: dict[str, Any] = {"lr": config.learning_rate, "fused": config.fused is not False}
    if config.name == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **options)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, betas=(config.beta1, config.beta2), eps=config.epsilon, **options)


def freeze(parameters: Mapping[str, torch.nn.Parameter], config: OptimizerConfig) -> None:
    """Takes the parameters whose rate is 0 out of the backward pass."""
    for name, parameter in parameters.items():
        if _rate_factor(name, config) == 0:
            parameter.requires_grad_(False)


def prepare_step(optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, step: int, rate: float) -> None:
    """Sets the learning rates of an update, `step` from 1; `rate` is that of parameters whose factor is 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
        if config.epsilon_hat:
            # torch: lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + e); published: lr sqrt(1 - b2^t) / (1 - b1^t) * m /
            # (sqrt(v) + e^). They are one with e = e^ / sqrt(1 - b2^t).
            group["eps"] = config.epsilon / math.sqrt(1 - config.beta2**step)


def learning_rate(config: OptimizerConfig, num_examples: int, *, run_examples: float = math.inf) -> float:
    """Returns the learning rate after `num_examples` of a run's `run_examples`; the number of workers plays no part."""
    rate, warm_up = config.learning_rate, config.warm_up_examples
    if num_examples < warm_up:
        # The first step does not stand still: it takes the rate of the example that follows it.
        rate *= (num_examples + 1) / warm_up
    return rate * _shape(config, max(num_examples - warm_up, 0), run_examples - warm_up)


def run_examples(config: TrainConfig, num_videos: float) -> float:
    """Returns the examples of a whole run whose epochs have `num_videos` each."""
    train = config.train
    most = math.inf if train.max_steps is None else train.max_steps * train.batch_size
    return min(num_videos * train.num_epochs, most)


def _shape(config: OptimizerConfig, num_examples: int, examples_left: float) -> float:
    # What the base rate is multiplied by, `num_examples` after the warm-up.
    lowest = config.final_fraction
    if config.schedule == "staircase":
        return config.decay_factor ** (num_examples // config.decay_examples)
    if config.schedule == "triangular":
        assert config.cycle_examples is not None
        place = num_examples % config.cycle_examples / config.cycle_examples
        return lowest + (1 - lowest) * (1 - abs(2 * place - 1))
    done = min(num_examples / max(config.schedule_examples or examples_left, 1), 1.0)
    left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return lowest + (1 - lowest) * left


def clip_gradients(parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> torch.Tensor:
    """Scales gradients down to the bound on their norm, each or together; returns whether all were finite, bool []."""
    # Not torch.nn.utils.clip_grad_norm_: published systems clip each variable's own norm.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.ones((), dtype=torch.bool)
    bound = config.clip_gradient_norm
    norms = torch.stack(torch._foreach_norm(gradients))
    total = torch.linalg.vector_norm(norms)
    if bound > 0 and config.clip == "variable":
        # All factors at once: one by one they are three small kernels a variable, which a GPU's host has to launch.
        torch._foreach_mul_(gradients, (bound / torch.clamp_min(norms, bound)).unbind())
    elif bound > 0:
        torch._foreach_mul_(gradients, bound / torch.clamp_min(total, bound))
    return torch.isfinite(total)


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str]
) -> dict[str, torch.Tensor]:
    """Returns what the optimizer keeps as `exp_avg.<parameter name>` and so on."""
    return {
        f"{kind}.{name}": tensor
        for parameter, name in names.items()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, torch.Tensor)
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    names: Mapping[torch.nn.Parameter, str],
    tensors: Mapping[str, torch.Tensor],
    config: OptimizerConfig,
) -> None:
    """Restores what `optimizer_state` returned; another optimizer's state is left out, with a warning."""
    kinds = _STATE[config.name]
    num_missing = 0
    for parameter, name in names.items():
        if all(f"{kind}.{name}" in tensors for kind in kinds):
            device = parameter.device
            # The fused kernels read `step` beside the parameter, the others on the CPU.
            places = {"step": torch.device("cpu") if config.fused is False else device}
            optimizer.state[parameter] = {
                kind: tensors[f"{kind}.{name}"].to(places.get(kind, device), copy=True) for kind in kinds
            }
        elif any(key.endswith(f".{name}") for key in tensors):
            num_missing += 1
    if num_missing:
        logger.warning(
            "optimizer.name: %s starts anew: the checkpoint has another optimizer's state of %d parameters",
            config.name,
            num_missing,
        )


def _rate_factor(name: str, config: OptimizerConfig) -> float:
    # The last pattern that fits decides.
    factors = reversed(config.learning_rate_factors.items())
    return next((factor for pattern, factor in factors if fnmatch.fnmatchcase(name, pattern)), 1.0)


def _weight_decay(name: str, parameter: torch.nn.Parameter, config: OptimizerConfig) -> float:
    # Vectors are not decayed: biases, and the scales and offsets of normalization.
    is_excluded = parameter.ndim < 2 or any(fnmatch.fnmatchcase(name, pattern) for pattern in config.no_weight_decay)
    return 0.0 if is_excluded else config.weight_decay


def _check_patterns(key: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            examples = ", ".join(list(names)[:4])
            raise ConfigError(f"optimizer.{key}: {pattern!r} fits no parameter; there are {examples}, ...")
