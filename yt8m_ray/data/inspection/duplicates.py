"""Which videos occur more than once, for millions of ids in little memory.

The 6.1 million videos of YouTube-8M take 20 bytes each, 130 MB together, and 390 MB while they are sorted (measured).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yt8m_ray.data.video_keys import id_of

_MOST_SHOWN = 10
_MOST_PLACES = 10


@dataclass(frozen=True)
class Duplicate:
    """An id that several videos have, or `blake2b:` and its digest, and (shard, record) of the first ten of them."""

    video_id: str
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class Duplicates:
    """How many ids several videos have, and the first of these ids."""

    num_ids: int = 0
    # Videos whose id an earlier one has.
    num_videos: int = 0
    # Of the ids, those that occur more than once in a single shard, and those that occur in several.
    num_ids_within_shards: int = 0
    num_ids_across_shards: int = 0
    # By the place of their first video.
    first: tuple[Duplicate, ...] = ()


def find_duplicates(keys: np.ndarray, shards: np.ndarray, records: np.ndarray) -> Duplicates:
    """Returns which of N videos share an id.

    Their keys, uint64 [N, 2], are those of `id_keys`; they ascend by shard, then by record, both int32 [N].
    """
    # A stable sort: the videos of an id keep their order.
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    is_again = np.zeros(len(order), bool)
    is_again[1:] = (keys[order[1:], 0] == keys[order[:-1], 0]) & (keys[order[1:], 1] == keys[order[:-1], 1])
    # Numbers the ids in sorted order.
    ids = np.cumsum(~is_again) - 1
    again = np.flatnonzero(is_again)
    is_same_shard = shards[order[again]] == shards[order[again - 1]]
    # Where the first video of each id that occurs again stands, in the order of these videos.
    starts = again[~is_again[again - 1]] - 1
    starts = starts[np.argsort(order[starts], kind="stable")]
    shown = []
    for start in starts[:_MOST_SHOWN].tolist():
        end = np.searchsorted(ids, ids[start], side="right")
        group = order[start : min(end, start + _MOST_PLACES)]
        places = zip(shards[group].tolist(), records[group].tolist(), strict=True)
        shown.append(Duplicate(id_of(keys[group[0]]), list(places)))
    return Duplicates(
        num_ids=len(starts),
        num_videos=len(again),
        num_ids_within_shards=len(np.unique(ids[again[is_same_shard]])),
        num_ids_across_shards=len(np.unique(ids[again[~is_same_shard]])),
        first=tuple(shown),
    )
