"""Exponential moving averages of a model's weights and batch-norm statistics. Torch only."""

from __future__ import annotations

import copy

import torch


class MovingAverage:
    """The average of a model's state: average = decay * average + (1 - decay) * state, from the state it began with.

    Integers, which have no average, are copied.

    Args:
        model: The model; its current state is where the average starts, without correction, as published.
        decay: What is kept of the average at each update, in [0, 1).
        warm_up: Whether the decay is at most (1 + n) / (10 + n) after n updates, TensorFlow's rule.

    Attributes:
        average: A model with the average as its weights, in eval mode.
        num_updates: n.
    """

    def __init__(self, model: torch.nn.Module, *, decay: float, warm_up: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected 0 <= decay < 1, found {decay}")
        self._decay = decay
        self._warm_up = warm_up
        self._model = model
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Adds the model's current state; once a step, after the optimizer."""
        decay = self._decay
        if self._warm_up:
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        state, average = self._model.state_dict(), self.average.state_dict()
        floats = [name for name, tensor in average.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([average[name] for name in floats], [state[name] for name in floats], 1 - decay)
        for name in average.keys() - set(floats):
            average[name].copy_(state[name])
        self.num_updates += 1
