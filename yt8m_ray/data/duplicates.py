"""Which videos occur more than once, for millions of ids in little memory.

An id becomes a key of 16 bytes: the id itself where it is short, as YouTube's are, else a digest of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KEY_BYTES = 16

_LONGEST_ID = KEY_BYTES - 1
_IS_DIGEST = 255
_KEY_DTYPE = np.dtype(">u8")


@dataclass(frozen=True)
class Duplicate:
    """An id that several videos have.

    Attributes:
        video_id: The id, or `blake2b:` and the digest of one longer than 15 bytes.
        places: (shard, record) of each of the videos, ascending; the shard is a number in the list that was read.
    """

    video_id: str
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class Duplicates:
    """All of them.

    Attributes:
        num_ids: Ids that several videos have.
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


def id_keys(video_ids: Sequence[str]) -> np.ndarray:
    """Returns the keys of N ids, uint64 [N, 2]; equal for equal ids, and for others only if BLAKE2b-120 collides."""
    keys = np.frombuffer(b"".join(map(_key, video_ids)), _KEY_DTYPE)
    return keys.reshape(-1, 2).astype(np.uint64)


def find_duplicates(keys: np.ndarray, shards: np.ndarray, records: np.ndarray, *, num_shown: int = 10) -> Duplicates:
    """Returns which of N videos share an id.

    Args:
        keys: uint64 [N, 2].
        shards: int32 [N].
        records: int32 [N]; ascending by shard, then by record.
        num_shown: How many of the ids to name.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: the videos of an id keep their order
    starts = np.ones(len(order), bool)
    starts[1:] = (keys[order[1:], 0] != keys[order[:-1], 0]) | (keys[order[1:], 1] != keys[order[:-1], 1])
    firsts = np.flatnonzero(starts)
    counts = np.diff(np.append(firsts, len(order)))
    groups = [order[first : first + count] for first, count in zip(firsts[counts > 1], counts[counts > 1], strict=True)]
    groups.sort(key=lambda group: int(group[0]))
    num_shards = [len(np.unique(shards[group])) for group in groups]
    return Duplicates(
        num_ids=len(groups),
        num_videos=sum(len(group) - 1 for group in groups),
        num_ids_within_shards=sum(count < len(group) for count, group in zip(num_shards, groups, strict=True)),
        num_ids_across_shards=sum(count > 1 for count in num_shards),
        first=tuple(
            Duplicate(_id_of(keys[group[0]]), list(zip(shards[group].tolist(), records[group].tolist(), strict=True)))
            for group in groups[:num_shown]
        ),
    )


def _key(video_id: str) -> bytes:
    encoded = video_id.encode()
    if len(encoded) <= _LONGEST_ID:
        return bytes([len(encoded)]) + encoded.ljust(_LONGEST_ID, b"\0")
    return bytes([_IS_DIGEST]) + hashlib.blake2b(encoded, digest_size=_LONGEST_ID).digest()


def _id_of(key: np.ndarray) -> str:
    data = key.astype(_KEY_DTYPE).tobytes()
    return f"blake2b:{data[1:].hex()}" if data[0] == _IS_DIGEST else data[1 : 1 + data[0]].decode()
