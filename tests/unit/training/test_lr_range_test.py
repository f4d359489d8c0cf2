from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.lr_range_test import RatePoint, RateRange, find_learning_rate, run_rates, suggest

CPU = torch.device("cpu")
NUM_VIDEOS = 40


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"train{index}.tfrecord") for index in range(2)]
    for index, path in enumerate(paths):
        rows = []
        for number in range(NUM_VIDEOS // 2):
            label = int(rng.integers(4))
            mean = np.eye(4, 6, dtype=np.float32)[label] + rng.normal(scale=1.0, size=6).astype(np.float32)
            rows.append({"id": [b"%d_%d" % (index, number)], "labels": np.array([label]), "mean_rgb": mean})
        write_records(path, [encode_example(row) for row in rows])
    return paths


def config_of(**sections: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"name": "test"},
            "data": {"features": {"mean_rgb": 6}, "num_classes": 4},
            "model": {"name": "logistic", "l2": 0.0},
            "train": {"batch_size": 8, "num_epochs": 1},
            **sections,
        }
    )


def test_rates_rise_by_a_constant_factor_from_the_lowest_to_the_highest() -> None:
    rates = RateRange(1e-4, 1e-1, 31)

    assert (rates.at(0), rates.at(30)) == pytest.approx((1e-4, 1e-1))
    assert rates.at(20) / rates.at(10) == pytest.approx(10)


def test_the_weights_move_by_the_rates_of_the_test(shards: list[str]) -> None:
    # The first step of Adam moves a weight by its learning rate, whatever the gradient.
    schedule = {"schedule": "cosine", "warm_up_examples": 100, "learning_rate": 0.5}
    config = config_of(optimizer=schedule, train={"batch_size": NUM_VIDEOS, "regularization_penalty": 0.0})
    losses = {}
    for rate in (1e-3, 0.1):
        first, second, *_ = run_rates(config, shards, RateRange(rate, 1.0, 10), device=CPU)
        losses[rate] = (first.loss, second.loss)

    assert losses[1e-3][0] == losses[0.1][0]
    small, large = (before - after for before, after in losses.values())
    assert 50 < large / small < 100  # 100 times as far, down a slope that flattens


def test_shards_are_read_as_often_as_the_steps_need(shards: list[str]) -> None:
    points = list(run_rates(config_of(), shards, RateRange(1e-4, 1e-3, 12), device=CPU))

    assert [point.step for point in points] == list(range(1, 13))  # a pass has 5


def test_steps_of_the_warm_up_are_no_points_of_the_test(shards: list[str]) -> None:
    cold, warm = (
        list(run_rates(config_of(), shards, RateRange(1e-4, 1e-3, 12, steps), device=CPU)) for steps in (0, 20)
    )

    assert len(warm) == 12
    assert warm[0].loss < cold[0].loss


def test_the_test_ends_where_the_loss_diverges(shards: list[str], tmp_path: Path) -> None:
    found = find_learning_rate(config_of(), shards, RateRange(1e-2, 1e9, 100), tmp_path / "rates", device=CPU)

    assert found["num_steps"] < 100
    assert found["tenth_of_minimum"] < found["diverged_at"] < 1e9


def test_the_table_has_a_row_a_step_and_the_picture_is_a_png(shards: list[str], tmp_path: Path) -> None:
    found = find_learning_rate(config_of(), shards, RateRange(1e-4, 1e-2, 15), tmp_path / "rates", device=CPU)

    with open(found["table"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert [float(rows[0]["learning_rate"]), float(rows[-1]["learning_rate"])] == pytest.approx([1e-4, 1e-2])
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")


def test_the_suggestions_are_the_steepest_descent_and_a_tenth_of_the_minimum() -> None:
    rates = np.logspace(-4, 0, 41)
    losses = 10 - 4 / (1 + np.exp(-8 * (np.log10(rates) + 2))) + 100 * np.maximum(0, np.log10(rates) + 1) ** 2
    points = [RatePoint(step, rate, loss, loss) for step, (rate, loss) in enumerate(zip(rates, losses, strict=True), 1)]

    assert suggest(points) == pytest.approx({"steepest_descent": 1e-2, "tenth_of_minimum": 1e-2}, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "name"), [((1.0, 0.1), "min, max: "), ((0.0, 0.1), "min, max: "), ((0.1, 1.0, 3), "steps: ")]
)
def test_a_range_that_is_none_is_refused(arguments: tuple[float, ...], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        RateRange(*arguments)  # type: ignore[arg-type]
