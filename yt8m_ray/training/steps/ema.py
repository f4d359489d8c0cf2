"""Exponential moving averages of a model's weights and batch-norm statistics."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch


class MovingAverage:
    """The average of a model's state: average = decay * average + (1 - decay) * state, from the state it began with.

    With `warm_up` the decay is at most (1 + n) / (10 + n) after n updates, TensorFlow's rule.
    """

    # torch.optim.swa_utils.AveragedModel is no shorter (torch 2.13): its first update copies the model, where the
    # published average keeps its start; it averages integers too; and TensorFlow's warm-up needs a function of its own.
    def __init__(self, model: torch.nn.Module, *, decay: float, warm_up: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected 0 <= decay < 1, found {decay}")
        self._decay = decay
        self._warm_up = warm_up
        self._model = model
        # A model of its own, which can be evaluated and saved like any other.
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.num_updates = 0

    def update(self) -> None:
        """Adds the model's current state; once a step, after the optimizer."""
        limit = (1 + self.num_updates) / (10 + self.num_updates) if self._warm_up else 1.0
        decay = min(self._decay, limit)
        move_towards(self.average.state_dict(), self._model.state_dict(), 1 - decay)
        self.num_updates += 1


@torch.no_grad()
def move_towards(mean: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], share: float) -> None:
    """Makes `mean` (1 - share) * mean + share * state in place; integers, which have no mean, are copied."""
    floats = [name for name, tensor in mean.items() if tensor.is_floating_point()]
    # One call for all tensors saves a kernel for each. Two equal tensors give exactly themselves.
    torch._foreach_lerp_([mean[name] for name in floats], [state[name] for name in floats], share)
    for name in mean.keys() - set(floats):
        mean[name].copy_(state[name])
