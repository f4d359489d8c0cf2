"""Exponential moving averages of a model's weights and batch-norm statistics. Torch only."""

from __future__ import annotations

import torch


class MovingAverage:
    """The average of a model's state: shadow = decay * shadow + (1 - decay) * state, from the state it began with.

    Integers, which have no average, are copied.

    Args:
        model: The model; its current state is where the average starts, without correction, as published.
        decay: What is kept of the average at each update, in [0, 1).

    Attributes:
        shadow: The average, by the names of the model's state dict.
    """

    def __init__(self, model: torch.nn.Module, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected 0 <= decay < 1, found {decay}")
        self.decay = decay
        self._model = model
        self.shadow = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Adds the model's current state; once a step, after the optimizer."""
        state = self._model.state_dict()
        floats = [name for name, shadow in self.shadow.items() if shadow.is_floating_point()]
        torch._foreach_lerp_([self.shadow[name] for name in floats], [state[name] for name in floats], 1 - self.decay)
        for name in self.shadow.keys() - set(floats):
            self.shadow[name].copy_(state[name])


def decay_of_mean_lifetime(steps: float) -> float:
    """Returns the decay whose weights have this mean age in steps: 1 - 1 / steps, the published flag `ema_halflife`."""
    if steps < 1:
        raise ValueError(f"a mean lifetime is at least 1 step, found {steps}")
    return 1 - 1 / steps
