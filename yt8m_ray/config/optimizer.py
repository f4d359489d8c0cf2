"""How weights are updated: the optimizer, its learning rate over the run, and the moving average of the weights."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat

from yt8m_ray.registry import Config, NonNegativeInt, PositiveInt

# Keys that only some values of another key use; elsewhere they keep their default.
_USED_BY = {
    "decay_factor": ("schedule", ("staircase",)),
    "decay_examples": ("schedule", ("staircase",)),
    "schedule_examples": ("schedule", ("linear", "cosine")),
    "final_fraction": ("schedule", ("linear", "cosine", "triangular")),
    "cycle_examples": ("schedule", ("triangular",)),
    "epsilon_hat": ("name", ("adam", "adamw")),
    "weight_decay": ("name", ("adamw",)),
    "no_weight_decay": ("name", ("adamw",)),
    "momentum": ("name", ("sgd",)),
    "nesterov": ("name", ("sgd",)),
}


class OptimizerConfig(Config):
    """The optimizer, and a learning rate that depends on examples seen."""

    # Not on steps, so that a schedule stays the same for other batches and numbers of workers.

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """`adamw` is Adam with decoupled weight decay; `sgd` has momentum."""
    learning_rate: PositiveFloat = 0.01
    """The base rate."""
    learning_rate_factors: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Factors of the rate by pattern of parameter names (`head.*`); the last pattern that fits decides, 0 freezes."""
    schedule: Literal["staircase", "linear", "cosine", "triangular"] = "staircase"
    """What the base rate is multiplied by. `staircase`: decay_factor ** floor(examples / decay_examples) (published:
    0.95 every 4,000,000). `linear` and `cosine`: falls from 1 to `final_fraction` over `schedule_examples` and stays
    there. `triangular`: rises from `final_fraction` to 1 and falls again in each `cycle_examples`."""
    warm_up_examples: NonNegativeInt = 0
    """In the first examples the rate also rises in a straight line from 0; the schedule begins after them."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.95
    decay_examples: PositiveInt = 4_000_000
    schedule_examples: PositiveInt | None = None
    """Examples over which `linear` and `cosine` fall; null takes what the run has left after the warm-up."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Lowest share of the base rate."""
    cycle_examples: PositiveInt | None = None
    """Examples of one rise and fall."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    epsilon_hat: bool = False
    """Whether to add it before the moment's bias is corrected, as TensorFlow and the published systems do, or after, as
    torch does. Only gradients near epsilon tell the difference."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `sgd`."""
    nesterov: bool = False
    """Whether that momentum looks ahead."""
    weight_decay: NonNegativeFloat = 0.0
    """Of `adamw`: share of a weight taken off at each step, times the learning rate."""
    no_weight_decay: tuple[str, ...] = ()
    """Patterns of parameter names that keep out of it, as vectors (biases, scales and offsets) always do."""
    clip_gradient_norm: NonNegativeFloat = 1.0
    """Bound of a gradient's norm; 0 switches clipping off."""
    clip: Literal["variable", "global"] = "variable"
    """Whether the bound holds for each variable's own gradient, as published, or for all of them together."""
    gradient_reduction: Literal["mean", "sum"] = "mean"
    """Whether the step follows the mean over all videos, or the sum of the workers' means, as the published towers do
    (regularization included)."""
    fused: bool | None = None
    """One kernel for all weights of a step; null takes it where torch has it."""

    @pydantic.model_validator(mode="after")
    def _check_use(self) -> OptimizerConfig:
        for key, (by, values) in _USED_BY.items():
            if getattr(self, by) not in values:
                self.check_unused(key, why=f"{by} {getattr(self, by)} does not use it, only {', '.join(values)}")
        if not self.clip_gradient_norm:
            self.check_unused("clip", why="clip_gradient_norm is 0, nothing is clipped")
        if self.schedule == "triangular" and not self.final_fraction:
            # A cycle begins with a rise of its own, and before the first one the rate would be 0 throughout.
            self.check_unused("warm_up_examples", why="schedule triangular needs a final_fraction above 0 with it")
        if self.schedule == "triangular" and self.cycle_examples is None:
            raise ValueError("cycle_examples: schedule triangular needs the examples of a cycle")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum above 0")
        return self


class EMAConfig(Config):
    """The exponential moving average of weights and batch-norm statistics; at most one of the first three is given."""

    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """What is kept of the average at each step."""
    half_life_steps: PositiveFloat | None = None
    """Steps after which half of the average is newer."""
    mean_lifetime_steps: Annotated[float, Field(ge=1)] | None = None
    """Mean age of the weights in the average: decay 1 - 1 / steps, the published flag `ema_halflife`."""
    warm_up: bool = False
    """Whether the decay is at most (1 + steps) / (10 + steps), which soon forgets the initial weights."""
    evaluate: bool = True
    """Whether validation, and so the choice of the best checkpoint, is of the average. Every checkpoint has both."""

    @property
    def is_on(self) -> bool:
        """Whether there is an average."""
        return self.decay_per_step is not None

    @property
    def decay_per_step(self) -> float | None:
        """What is kept of the average at each step, None without an average."""
        if self.half_life_steps is not None:
            return float(0.5 ** (1 / self.half_life_steps))
        if self.mean_lifetime_steps is not None:
            return 1 - 1 / self.mean_lifetime_steps
        return self.decay

    @pydantic.model_validator(mode="after")
    def _check_one(self) -> EMAConfig:
        keys = ("decay", "half_life_steps", "mean_lifetime_steps")
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} say the same in other units; give one")
        if not given:
            self.check_unused("warm_up", "evaluate", why=f"there is no average without one of {', '.join(keys)}")
        return self
