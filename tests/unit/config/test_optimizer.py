from __future__ import annotations

from typing import Any

import pytest

from yt8m_ray.config.optimizer import OptimizerConfig


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
    ],
)
def test_a_key_that_would_do_nothing_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig.model_validate(keys)
