"""Where each video id of a file is: a table of 64-bit hashes, some tens of bytes an id; equal ids are compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from yt8m_ray.compiled import borrowing, compiled, inlined

ABSENT = -1

_OFFSET_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


class IdIndex:
    """Finds the row of an id among N.

    Args:
        data: uint8, where the ids lie.
        starts: int64 [N], where each begins.
        lengths: int64 [N], their bytes.
    """

    def __init__(self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        self._ids = data, starts, lengths
        num_slots = 1 << max(int(2 * len(starts) - 1).bit_length(), 1)
        self._slots = np.full(num_slots, ABSENT, np.int32 if len(starts) < 1 << 31 else np.int64)
        self._hashes = np.empty(len(starts), np.uint64)
        self.twice = _insert(self._ids, self._hashes, self._slots)
        self._next = 0

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, id_bytes: np.ndarray, id_bounds: np.ndarray) -> np.ndarray:
        """Returns the rows of M ids, int64 [M], ABSENT where there is none.

        Ids in the order of the rows are found without the table: behind a row, its next one is looked at first.

        Args:
            id_bytes: uint8, the ids end to end.
            id_bounds: int64 [M + 1], where each begins, and where the last ends.
        """
        rows = np.empty(len(id_bounds) - 1, np.int64)
        self._next = _find(self._ids, self._hashes, self._slots, id_bytes, id_bounds, self._next, rows)
        return rows


@inlined
def _hash(data: np.ndarray, start: int, end: int) -> np.uint64:
    """Returns FNV-1a of the bytes, with its upper bits, the better ones, brought down."""
    value = _OFFSET_BASIS
    for position in range(start, end):
        value = (value ^ np.uint64(data[position])) * _PRIME
    value = (value ^ (value >> _HALF)) * _MIXER
    return value ^ (value >> _HALF)


@compiled
def hash_ids(id_bytes: np.ndarray, id_bounds: np.ndarray) -> np.ndarray:
    """Returns the hash of each id, uint64 [N]; arguments as in `IdIndex.find`."""
    hashes = np.empty(len(id_bounds) - 1, np.uint64)
    for row in range(len(hashes)):
        hashes[row] = _hash(id_bytes, id_bounds[row], id_bounds[row + 1])
    return hashes


@inlined
def _is_equal(data: np.ndarray, start: int, length: int, other: np.ndarray, other_start: int, other_end: int) -> bool:
    if other_end - other_start != length:
        return False
    for offset in range(length):  # noqa: SIM110 - generator expressions are not to be compiled
        if data[start + offset] != other[other_start + offset]:
            return False
    return True


@compiled
def _insert(ids: Any, hashes: np.ndarray, slots: np.ndarray) -> tuple[Any, int]:
    """Fills the table; returns the rows of the first id that is there twice, at which it stopped, else (-1, -1)."""
    data, starts, lengths = ids
    mask = len(slots) - 1
    for row in range(len(starts)):
        hashes[row] = _hash(data, starts[row], starts[row] + lengths[row])
        slot: Any = np.int64(hashes[row] & np.uint64(mask))
        while slots[slot] >= 0:
            other = slots[slot]
            if hashes[other] == hashes[row] and _is_equal(
                data, starts[other], lengths[other], data, starts[row], starts[row] + lengths[row]
            ):
                return np.int64(other), row
            slot = (slot + 1) & mask
        slots[slot] = row
    return -1, -1


@borrowing
def _find(
    ids: Any,
    hashes: np.ndarray,
    slots: np.ndarray,
    id_bytes: np.ndarray,
    id_bounds: np.ndarray,
    following: int,
    rows: np.ndarray,
) -> int:
    """Fills `rows`; returns the row behind the last one found."""
    data, starts, lengths = ids
    mask = len(slots) - 1
    for index in range(len(rows)):
        start, end = id_bounds[index], id_bounds[index + 1]
        if following < len(starts) and _is_equal(data, starts[following], lengths[following], id_bytes, start, end):
            rows[index] = following
            following += 1
            continue
        wanted = _hash(id_bytes, start, end)
        slot: Any = np.int64(wanted & np.uint64(mask))
        rows[index] = ABSENT
        while slots[slot] >= 0:
            row: Any = np.int64(slots[slot])
            if hashes[row] == wanted and _is_equal(data, starts[row], lengths[row], id_bytes, start, end):
                rows[index] = row
                following = row + 1
                break
            slot = (slot + 1) & mask
    return following
