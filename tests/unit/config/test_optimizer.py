from __future__ import annotations

from typing import Any

import pytest

from yt8m_ray.config.optimizer import EMAConfig, OptimizerConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"schedule": "cosine", "decay_factor": 0.5}, "decay_factor: schedule cosine does not use it, only staircase"),
        (
            {"final_fraction": 0.1},
            "final_fraction: schedule staircase does not use it, only linear",
        ),
        ({"schedule": "triangular"}, "cycle_examples: schedule triangular needs the examples of a cycle"),
        ({"weight_decay": 0.1}, "weight_decay: name adam does not use it, only adamw"),
        ({"momentum": 0.5}, "momentum: name adam does not use it, only sgd"),
        ({"name": "sgd", "epsilon_hat": True}, "epsilon_hat: name sgd does not use it, only adam, adamw"),
        ({"clip": "global", "clip_gradient_norm": 0}, "clip: clip_gradient_norm is 0, nothing is clipped"),
        (
            {"schedule": "triangular", "cycle_examples": 100, "warm_up_examples": 10},
            "warm_up_examples: schedule triangular needs a final_fraction above 0 with it",
        ),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig.model_validate(keys)


@pytest.mark.parametrize("keys", [{"warm_up": True}, {"evaluate": False}])
def test_what_an_average_does_needs_an_average(keys: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(keys))}: there is no average without one of decay, half_life_st"):
        EMAConfig.model_validate(keys)

    assert EMAConfig.model_validate({**keys, "decay": 0.9}).is_on
