"""The recipes of tests/benchmarks/recipes.py: each is a config that loads, taught by another that exists."""

from __future__ import annotations

import pytest

from tests.benchmarks.recipes import RECIPES, config_of, in_order


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_config_of_video_level_shards(name: str) -> None:
    config = config_of(RECIPES[name], seed=3, overrides=["train.num_epochs=2"])

    assert (config.run.seed, config.train.num_epochs) == (3, 2)
    assert set(config.data.features) == {"mean_rgb", "mean_audio"}


def test_a_teacher_comes_before_those_that_learn_from_it_and_each_once() -> None:
    assert in_order(["logistic", "moe2+distilled", "moe2"]) == ["logistic", "moe2", "moe2+distilled"]


def test_every_teacher_is_a_recipe() -> None:
    assert {recipe.teacher for recipe in RECIPES.values() if recipe.teacher} <= RECIPES.keys()
