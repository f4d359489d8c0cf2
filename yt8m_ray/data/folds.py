"""Sorted shards -> the shards to train on and those held out: k folds, or a bootstrap, that a seed repeats.

Whole shards are split, so that no video is in two parts as long as none is in two shards (`jobs.inspect` tells).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def split_folds(shards: Sequence[str], *, num_folds: int, fold: int, seed: int) -> tuple[list[str], list[str]]:
    """Returns (shards of the other folds, shards of this fold), both in their given order.

    Folds differ by one shard at most in size. They depend on the order and number of the shards and on the seed, not
    on their names: the same data in another folder has the same folds.

    Args:
        shards: Sorted, each once.
        num_folds: At least 2.
        fold: 0..num_folds - 1.
        seed: Permutes the shards before they are dealt out.

    Raises:
        ValueError: there are fewer shards than folds.
    """
    if len(shards) < num_folds:
        raise ValueError(f"data.folds: {num_folds} folds need as many shards, data.train names {len(shards)}")
    fold_of = np.empty(len(shards), np.int64)
    fold_of[np.random.default_rng(seed).permutation(len(shards))] = np.arange(len(shards)) % num_folds
    rest = [shard for shard, its in zip(shards, fold_of, strict=True) if its != fold]
    return rest, [shard for shard, its in zip(shards, fold_of, strict=True) if its == fold]


def bootstrap(shards: Sequence[str], *, seed: int) -> list[str]:
    """Returns as many shards drawn with replacement, in their given order; about 63 % of them are among those drawn.

    Like the folds they depend on the number of shards and on the seed, not on names.
    """
    drawn = np.random.default_rng(seed).choice(len(shards), len(shards), replace=True)
    return [shards[index] for index in np.sort(drawn).tolist()]
