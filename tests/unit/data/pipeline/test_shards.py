from __future__ import annotations

import numpy as np
import pytest

from yt8m_ray.data.pipeline.shards import bootstrap, split_folds

SHARDS = [f"/data/train{index:04d}.tfrecord" for index in range(23)]


def test_every_shard_is_held_out_once() -> None:
    held_out = [split_folds(SHARDS, num_folds=5, fold=fold, seed=11)[1] for fold in range(5)]

    assert sorted(shard for part in held_out for shard in part) == SHARDS
    assert sorted(map(len, held_out)) == [4, 4, 5, 5, 5]


@pytest.mark.parametrize("fold", range(5))
def test_the_rest_is_trained_on(fold: int) -> None:
    rest, held_out = split_folds(SHARDS, num_folds=5, fold=fold, seed=11)

    assert sorted(rest + held_out) == SHARDS
    assert rest == sorted(rest) and held_out == sorted(held_out)


def test_the_seed_alone_chooses_the_folds() -> None:
    def positions(shards: list[str], seed: int) -> list[int]:
        return [shards.index(shard) for shard in split_folds(shards, num_folds=5, fold=2, seed=seed)[1]]

    elsewhere = [shard.replace("/data", "s3://bucket") for shard in SHARDS]
    # Written down: another split would move videos that older runs were trained on into their validation.
    assert positions(SHARDS, 11) == positions(elsewhere, 11) == [4, 6, 13, 14, 20]
    assert positions(SHARDS, 11) != positions(SHARDS, 12)


def test_more_folds_than_shards_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.folds: 24 folds need as many shards, data.train names 23"):
        split_folds(SHARDS, num_folds=24, fold=0, seed=0)


def test_a_bootstrap_draws_as_many_shards_as_there_are_in_their_order() -> None:
    drawn = bootstrap(SHARDS, seed=3)

    assert len(drawn) == len(SHARDS)
    assert drawn == sorted(drawn)
    assert set(drawn) < set(SHARDS)


def test_about_63_percent_of_the_shards_are_in_a_bootstrap() -> None:
    many = [str(index) for index in range(5000)]

    assert len(set(bootstrap(many, seed=0))) / 5000 == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_the_seed_alone_chooses_a_bootstrap() -> None:
    elsewhere = [shard.replace("/data", "s3://bucket") for shard in SHARDS]

    drawn = [SHARDS.index(shard) for shard in bootstrap(SHARDS, seed=3)]

    assert drawn == [elsewhere.index(shard) for shard in bootstrap(elsewhere, seed=3)]
    assert drawn != [SHARDS.index(shard) for shard in bootstrap(SHARDS, seed=4)]
