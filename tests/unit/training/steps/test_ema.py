from __future__ import annotations

import pytest
import torch

from yt8m_ray.config.optimizer import EMAConfig
from yt8m_ray.models.layers import BatchNorm
from yt8m_ray.training.steps.ema import MovingAverage


def test_one_update_with_the_published_half_life_of_2000() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    average = MovingAverage(model, decay=EMAConfig(mean_lifetime_steps=2000).decay_per_step or 0)
    torch.nn.init.constant_(model.weight, 2.0)

    average.update()

    assert average.average.state_dict()["weight"].item() == pytest.approx(1.0005, rel=1e-7)
    assert model.weight.item() == 2.0


def test_the_weight_of_the_start_decays_with_every_update() -> None:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.bias)
    average = MovingAverage(model, decay=EMAConfig(mean_lifetime_steps=3000).decay_per_step or 0)
    torch.nn.init.ones_(model.bias)
    for _ in range(3000):
        average.update()
    assert 1 - average.average.state_dict()["bias"].item() == pytest.approx(
        0.368, abs=1e-3
    )  # what the reference says is left


def test_batch_norm_statistics_are_averaged_too() -> None:
    model = BatchNorm(2)
    average = MovingAverage(model, decay=0.5)
    model.moving_mean.fill_(4.0)
    average.update()
    assert average.average.state_dict()["moving_mean"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= decay < 1"):
        MovingAverage(torch.nn.Linear(1, 1), decay=decay)


def test_the_warm_up_forgets_the_start_soon() -> None:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.bias)
    average = MovingAverage(model, decay=0.999, warm_up=True)
    torch.nn.init.ones_(model.bias)
    left = 1.0
    for number in range(5):
        average.update()
        left *= (1 + number) / (10 + number)

    assert 1 - average.average.state_dict()["bias"].item() == pytest.approx(left, rel=1e-2)


def test_half_of_the_average_is_newer_than_a_half_life() -> None:
    decay = EMAConfig(half_life_steps=70).decay_per_step

    assert decay is not None
    assert decay**70 == pytest.approx(0.5)


def test_two_units_for_one_average_are_refused() -> None:
    with pytest.raises(ValueError, match="decay and half_life_steps say the same"):
        EMAConfig(decay=0.9, half_life_steps=3)
