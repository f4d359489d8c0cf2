"""Every model learns planted labels: the figures of benchmarks/learning.py, in `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning import NUM_EPOCHS, NUM_VIDEOS, learn_from, synthesize_splits
from yt8m_ray.models import MODELS

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module", name="planted")
def planted_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, float]:
    """A folder of synthetic shards, and the GAP of the ideal and of the class-prior scorer."""
    folder = tmp_path_factory.mktemp("planted")
    return folder, *synthesize_splits(folder, num_videos=NUM_VIDEOS, seed=0)


@pytest.mark.parametrize("name", MODELS.names())
def test_a_small_model_reaches_half_of_the_ideal_gap_and_five_times_the_prior_s(
    planted: tuple[Path, float, float], name: str
) -> None:
    folder, ideal, prior = planted
    gap = learn_from(folder, name, num_epochs=NUM_EPOCHS, seed=0)["gap"]
    assert gap > ideal / 2
    assert gap > 5 * prior
