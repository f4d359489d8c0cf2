"""Which videos occur more than once, for millions of ids in little memory.

An id becomes a key of 16 bytes: the id itself where it is short, as YouTube's are, else a digest of it. The 6.1 million
videos of YouTube-8M take 20 bytes each, 130 MB together, and 390 MB while they are sorted (measured).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yt8m_ray.data.video_keys import id_of

_MOST_PLACES = 10


@dataclass(frozen=True)
class Duplicate:
    """An id that several videos have.

    Attributes:
        video_id: The id, or `blake2b:` and the digest of one longer than 15 bytes.
        places: (shard, record) of the first ten of the videos; the shard is a number in the list that was read.
    """

    video_id: str
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class Duplicates:
    """All of them.

    Attributes:
        num_videos: Videos that have an id which one before them has.
        num_ids_within_shards: Of the ids, those that occur more than once in some one shard.
        num_ids_across_shards: Of the ids, those that occur in more than one shard.
        first: The first few, by the place of their first video.
    """

    num_ids: int = 0
    num_videos: int = 0
    num_ids_within_shards: int = 0
    num_ids_across_shards: int = 0
    first: tuple[Duplicate, ...] = ()


def find_duplicates(keys: np.ndarray, shards: np.ndarray, records: np.ndarray, *, num_shown: int = 10) -> Duplicates:
    """Returns which of N videos share an id.

    Args:
        keys: uint64 [N, 2].
        shards: int32 [N].
        records: int32 [N]; ascending by shard, then by record.
        num_shown: How many of the ids to name.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: the videos of an id keep their order
    is_again = np.zeros(len(order), bool)
    is_again[1:] = (keys[order[1:], 0] == keys[order[:-1], 0]) & (keys[order[1:], 1] == keys[order[:-1], 1])
    ids = np.cumsum(~is_again) - 1
    again = np.flatnonzero(is_again)
    is_same_shard = shards[order[again]] == shards[order[again - 1]]
    starts = again[~is_again[again - 1]] - 1
    starts = starts[np.argsort(order[starts], kind="stable")]
    return Duplicates(
        num_ids=len(starts),
        num_videos=len(again),
        num_ids_within_shards=len(np.unique(ids[again[is_same_shard]])),
        num_ids_across_shards=len(np.unique(ids[again[~is_same_shard]])),
        first=tuple(
            Duplicate(id_of(keys[group[0]]), list(zip(shards[group].tolist(), records[group].tolist(), strict=True)))
            for group in (order[start : start + _size(is_again, start)] for start in starts[:num_shown].tolist())
        ),
    )


def _size(is_again: np.ndarray, start: int) -> int:
    """Returns how many videos the id has whose first one stands at `start`, or how many of them are shown."""
    others = is_again[start + 1 : start + _MOST_PLACES]
    return 1 + int(np.argmin(np.append(others, False)))
