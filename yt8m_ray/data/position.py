"""How far an epoch has been read: which records of which shards have been trained on.

A checkpoint carries it, and the reader of a resumed epoch leaves those records out, whatever the number of workers
is by then. The set is kept as it is, not as a count, because workers finish shards in any order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Position:
    """A place in a run's data.

    Attributes:
        epoch: Epochs finished; also chooses the order of the shards.
        consumed: Per shard index, packed bits: bit r is set where record r was consumed in the current epoch.
    """

    epoch: int = 0
    consumed: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, shards: np.ndarray, records: np.ndarray) -> None:
        """Marks records [N] of shards [N] as consumed."""
        for shard in np.unique(shards).tolist():
            mine = records[shards == shard]
            bits = np.zeros(max(int(mine.max()) + 1, 8 * len(self.consumed.get(shard, b""))), bool)
            bits[mine] = True
            packed = np.packbits(bits)
            if shard in self.consumed:
                packed[: len(self.consumed[shard])] |= self.consumed[shard]
            self.consumed[shard] = packed

    def merge(self, other: Position) -> None:
        """Marks everything that `other` marks."""
        for shard in other.consumed:
            records = other.records(shard)
            self.add(np.full(len(records), shard), records)

    def records(self, shard: int) -> np.ndarray:
        """Returns the consumed records of a shard, ascending."""
        return np.flatnonzero(np.unpackbits(self.consumed[shard])) if shard in self.consumed else np.empty(0, np.int64)

    @property
    def num_consumed(self) -> int:
        return sum(int(np.unpackbits(bits).sum()) for bits in self.consumed.values())

    def start_epoch(self, epoch: int) -> None:
        """Forgets the records: a new epoch begins."""
        self.epoch, self.consumed = epoch, {}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the position as three arrays, for a safetensors file."""
        shards = sorted(self.consumed)
        bits = [self.consumed[shard] for shard in shards]
        return {
            "epoch": np.array(self.epoch, np.int64),
            "shards": np.array(shards, np.int64),
            "num_bytes": np.array([len(part) for part in bits], np.int64),
            "bits": np.concatenate(bits) if bits else np.empty(0, np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Position:
        """Returns the position that `to_arrays` described."""
        ends = np.cumsum(arrays["num_bytes"])
        parts = np.split(arrays["bits"], ends[:-1]) if len(ends) else []
        return cls(int(arrays["epoch"]), dict(zip(arrays["shards"].tolist(), parts, strict=True)))

    def save(self, path: str | Path) -> None:
        """Writes the position aside and renames it, so that a reader never sees half of it."""
        aside = Path(f"{path}.tmp")
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **self.to_arrays())
        os.replace(aside, path)

    @classmethod
    def load(cls, path: str | Path) -> Position:
        """Returns the saved position.

        Raises:
            FileNotFoundError: it is not there; reading from the beginning instead would repeat videos.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"output: {path} is missing on this node; all nodes have to share the run's folder")
        with np.load(path, allow_pickle=False) as arrays:
            return cls.from_arrays(dict(arrays))


def epoch_order(num_shards: int, *, seed: int, epoch: int) -> Sequence[int]:
    """Returns the order in which an epoch reads its shards: a permutation that depends on seed and epoch alone."""
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(num_shards).tolist()
    return order
