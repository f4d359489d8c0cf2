"""How far the records of shards have been read: which of them are done, which were rejected, how many there are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from yt8m_ray.data.errors import UNLABELLED, Cause
from yt8m_ray.data.pipeline.packed_videos import Rejection, ShardEnd

CAUSES: tuple[Cause, ...] = get_args(Cause)
_LEFT_OUT = (*CAUSES, UNLABELLED)
logger = logging.getLogger(__name__)


class AccountingError(RuntimeError):
    """A record arrived twice or not at all: a fault of this software or of the cluster, never of the data."""


@dataclass
class Position:
    """A place in a run's data, which its checkpoints carry; a resumed epoch leaves out what is done."""

    # A set, not a count, because any number of workers finish shards in any order. It is the account, too: a record
    # that arrives twice is refused, and at the end every record that a shard holds has to have arrived.
    epoch: int = 0  # epochs finished; also chooses the order of the shards
    # By index of the shard: packed bits, of which bit r is set where record r was used or rejected in this epoch.
    done: dict[int, np.ndarray] = field(default_factory=dict)
    num_records: dict[int, int] = field(default_factory=dict)  # of the shards read to their end in this epoch
    rejected: Counter[str] = field(default_factory=Counter)  # in this epoch, by cause or as UNLABELLED

    def add(self, shards: np.ndarray, records: np.ndarray) -> None:
        """Marks records [N] of shards [N] as done; AccountingError where one of them was done already."""
        for shard in np.unique(shards).tolist():
            mine = records[shards == shard]
            # A record that stands twice in the call itself would be lost in the bits.
            bits = np.zeros(int(mine.max()) + 1, bool)
            bits[mine] = True
            if np.count_nonzero(bits) != len(mine):
                raise AccountingError(f"shard {shard}: a record arrived twice among {sorted(mine.tolist())}")
            self._mark(shard, np.packbits(bits))

    def add_remarks(self, rejections: Iterable[Rejection], ends: Iterable[ShardEnd]) -> None:
        """Marks rejected records as done and counts them; notes how many records the shards hold."""
        for rejection in rejections:
            self.add(np.array([rejection.shard]), np.array([rejection.record]))
            self.rejected[rejection.cause] += 1
        for end in ends:
            self.num_records[end.shard] = end.num_records

    def merge(self, other: Position) -> None:
        """Adds everything that `other`, of the same epoch, has; AccountingError where a record is in both."""
        for shard, packed in other.done.items():
            self._mark(shard, packed)
        self.num_records |= other.num_records
        self.rejected += other.rejected

    def records(self, shard: int) -> np.ndarray:
        """Returns the records of a shard that are done, ascending."""
        return np.flatnonzero(np.unpackbits(self.done[shard])) if shard in self.done else np.empty(0, np.int64)

    @property
    def num_done(self) -> int:
        return sum(int(np.unpackbits(bits).sum()) for bits in self.done.values())

    @property
    def num_rejected(self) -> int:
        return self.rejected.total()

    def is_finished(self, shard: int) -> bool:
        """Returns whether every record of a shard is done."""
        present = self.num_records.get(shard)
        return present is not None and np.array_equal(self.records(shard), np.arange(present))

    def check_complete(self, shards: Sequence[str]) -> None:
        """Checks that every record of every shard is done; AccountingError names the first shard of which it is not."""
        for index, path in enumerate(shards):
            if not self.is_finished(index):
                present = self.num_records.get(index, "an unknown number of")
                raise AccountingError(f"{path}: {present} records are present, {len(self.records(index))} arrived")

    def is_complete(self, num_shards: int) -> bool:
        return all(map(self.is_finished, range(num_shards)))

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.done, self.num_records, self.rejected = epoch, {}, {}, Counter()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the position as arrays, for a safetensors file."""
        shards = sorted(self.done)
        bits = [self.done[shard] for shard in shards]
        return {
            "epoch": np.array(self.epoch, np.int64),
            "shards": np.array(shards, np.int64),
            "num_bytes": np.array([len(part) for part in bits], np.int64),
            "bits": np.concatenate(bits) if bits else np.empty(0, np.uint8),
            "num_records": np.array(sorted(self.num_records.items()), np.int64).reshape(-1, 2),
            "rejected": np.array([self.rejected[cause] for cause in _LEFT_OUT], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Position:
        ends = np.cumsum(arrays["num_bytes"])
        parts = np.split(arrays["bits"], ends[:-1]) if len(ends) else []
        done = dict(zip(arrays["shards"].tolist(), parts, strict=True))
        # Checkpoints of earlier versions know fewer causes, the first ones; `+` drops those that count 0.
        rejected = Counter(dict(zip(_LEFT_OUT, arrays["rejected"].tolist(), strict=False)))
        return cls(int(arrays["epoch"]), done, dict(arrays["num_records"].tolist()), +rejected)

    def _mark(self, shard: int, packed: np.ndarray) -> None:
        before = self.done.get(shard, packed[:0])
        both = np.zeros(max(len(before), len(packed)), np.uint8)  # new, as a copy of the position may share the old one
        both[: len(before)] = before
        twice = both[: len(packed)] & packed
        if twice.any():
            raise AccountingError(f"shard {shard}: record {np.unpackbits(twice).argmax()} arrived twice")
        both[: len(packed)] |= packed
        self.done[shard] = both


def check_labelled(key: str, position: Position, *, warns: bool = True) -> None:
    """Checks that one of the videos that were read with labels required has some, and warns how many have none.

    Args:
        key: Where they come from (`data.validation`).
        warns: Whether to warn; of several workers one does.
    """
    num_unlabelled = position.rejected[UNLABELLED]
    num_labelled = position.num_done - position.num_rejected
    if num_unlabelled and not num_labelled:
        raise ValueError(unlabelled_message(key, num_unlabelled))
    if num_unlabelled and warns:
        num_videos = num_labelled + num_unlabelled
        logger.warning("%s: %d of %d videos have no labels and are left out", key, num_unlabelled, num_videos)


def unlabelled_message(key: str, num_videos: int) -> str:
    """Returns what to say where videos need labels and none has any."""
    return f"{key}: none of the {num_videos} videos has labels; there is nothing to learn from, or to score"


def epoch_order(num_shards: int, *, seed: int, epoch: int) -> Sequence[int]:
    """Returns the order in which an epoch reads its shards: a permutation that depends on seed and epoch alone."""
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(num_shards).tolist()
    return order
