"""Globs -> sorted shards -> those to train on and those held out: k folds, or a bootstrap."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from yt8m_ray.data.samples import resolve_sample
from yt8m_ray.data.storage.filesystem import match_paths, match_uris
from yt8m_ray.errors import NoShardsError
from yt8m_ray.local_files import NotAFileError, check_regular


def split_folds(shards: Sequence[str], *, num_folds: int, fold: int, seed: int) -> tuple[list[str], list[str]]:
    """Returns (shards of the other folds, shards of fold 0..num_folds - 1), both in their given order.

    Folds differ by one shard at most in size; ValueError where there are fewer shards than folds.
    """
    # Whole shards are split, so that no video is in two parts as long as none is in two shards (`yt8m inspect` tells).
    # Names play no part: the same data in another folder has the same folds.
    if len(shards) < num_folds:
        raise ValueError(f"data.folds: {num_folds} folds need as many shards, data.train names {len(shards)}")
    fold_of = np.empty(len(shards), np.int64)
    fold_of[np.random.default_rng(seed).permutation(len(shards))] = np.arange(len(shards)) % num_folds
    rest = [shard for shard, its in zip(shards, fold_of, strict=True) if its != fold]
    return rest, [shard for shard, its in zip(shards, fold_of, strict=True) if its == fold]


def bootstrap(shards: Sequence[str], *, seed: int) -> list[str]:
    """Returns as many shards drawn with replacement, in their given order."""
    # 1 - 1/e, about 63 %, of the shards are among those drawn.
    drawn = np.random.default_rng(seed).choice(len(shards), len(shards), replace=True)
    return [shards[index] for index in np.sort(drawn).tolist()]


def expand_shards(patterns: str | Sequence[str] | None, *, key: str, keep_folders: bool = False) -> list[str]:
    """Returns the sorted shards that local paths, URIs and globs name, each once; local ones as absolute paths.

    Args:
        key: Where the patterns come from (`data.train`), for messages.
        keep_folders: Whether what a glob matches and is no file stays, for a caller that says what is wrong with each.

    Raises:
        NoShardsError: nothing is given, or a pattern matches nothing, or a folder, a pipe or a device.
    """
    shards: set[str] = set()
    for pattern in map(resolve_sample, [patterns] if isinstance(patterns, str) else patterns or []):
        try:
            matches = match_uris(pattern) if "://" in pattern else match_paths(pattern)
        except FileNotFoundError as error:  # no such bucket
            raise NoShardsError(f"{key}: {error}") from error
        if not matches:
            raise NoShardsError(f"{key}: no file matches {pattern!r}")
        for match in matches:
            if "://" not in match and not (keep_folders and match != pattern):
                _check_file(match, key)
        shards.update(match if "://" in match else os.path.abspath(match) for match in matches)
    if not shards:
        raise NoShardsError(f"{key}: no shards are given; expected a path or a glob such as 'data/train*.tfrecord'")
    return sorted(shards)


def _check_file(path: str, key: str) -> None:
    try:
        check_regular(path)
    except IsADirectoryError:
        raise NoShardsError(f"{key}: {path} is a folder; expected files, such as '{path}/*.tfrecord'") from None
    except NotAFileError as error:
        raise NoShardsError(f"{key}: {error}") from None
    except OSError:  # said when it is opened
        pass
