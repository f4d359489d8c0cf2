"""Several prediction files side by side, video by video, in blocks.

The first file leads. Another one that has its videos in the same order is read beside it; from the first difference on
its rows are looked up by id. Videos that only later files have follow, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from yt8m_ray.compiled import borrowing
from yt8m_ray.inference.predictions.id_index import ABSENT, IdIndex, hash_ids
from yt8m_ray.inference.predictions.reader import NumberedRows, PredictionFile
from yt8m_ray.inference.predictions.rows import PredictionRows, RowBuffer

BLOCK_ROWS = 512
"""Videos of a block: few, so that what several files say of them stays in the processor's cache."""

NUM_NAMED = 5


@dataclass(frozen=True)
class AlignedBlock:
    """What K files say of N videos.

    Attributes:
        rows: The rows of all files, which hold until the next block; the first N have the ids of the N videos.
        places: int64 [K, N], which row is a file's of a video, ABSENT where it has none.
    """

    rows: PredictionRows
    places: np.ndarray

    def __len__(self) -> int:
        return int(self.places.shape[1])


@dataclass
class Missing:
    """Videos that a file lacks and another has.

    Attributes:
        path: The file.
        num_videos: How many.
        first: The ids of the first few.
    """

    path: str
    num_videos: int = 0
    first: list[str] = field(default_factory=list)


class Alignment:
    """The blocks of several files, and what was found missing once they have all been taken.

    Args:
        files: At their beginning.
    """

    def __init__(self, files: Sequence[PredictionFile]) -> None:
        self._files = [_Follower(file) for file in files]
        self._hashes: list[np.ndarray] = []
        self.num_videos = 0
        self.missing = [Missing(file.path) for file in files]

    def blocks(self) -> Iterator[AlignedBlock]:
        """Yields every video once.

        Raises:
            ValueError: a file has no video, or one of them twice; or a row of it is not sound.
            OSError: it cannot be read.
        """
        buffer = RowBuffer()
        for leader, file in enumerate(self._files):
            while True:
                buffer.clear()
                count = file.lead(buffer, BLOCK_ROWS)
                if not count:
                    break
                yield self._block(buffer, leader, count)
            if not file.num_rows:
                raise ValueError(f"{file.path}: no predictions")
        self._check_ids()

    def _block(self, buffer: RowBuffer, leader: int, count: int) -> AlignedBlock:
        places = np.full((len(self._files), count), ABSENT, np.int64)
        places[leader] = np.arange(count)
        for index in range(leader + 1, len(self._files)):
            self._files[index].follow(buffer, count, places[index])
        rows = buffer.rows()
        self._hashes.append(hash_ids(rows.id_bytes, rows.id_bounds[: count + 1]))
        self.num_videos += count
        for missing, found in zip(self.missing, places, strict=True):
            absent = np.flatnonzero(found == ABSENT)
            missing.num_videos += len(absent)
            missing.first += [rows.video_id(row) for row in absent[: NUM_NAMED - len(missing.first)].tolist()]
        return AlignedBlock(rows, places)

    def _check_ids(self) -> None:
        """Checks that no video came twice: a file that was read in order has not been looked into for that."""
        hashes = np.concatenate(self._hashes)
        hashes.sort()
        if np.any(hashes[1:] == hashes[:-1]):
            for file in self._files:
                file.check_ids()


class _Follower:
    """One of the files."""

    def __init__(self, file: PredictionFile) -> None:
        self._file = file
        self.path = file.path
        self.num_rows = 0
        self._numbered: NumberedRows | None = None
        self._index: IdIndex | None = None
        self._is_used = np.zeros(0, bool)
        self._left: np.ndarray | None = None  # rows that are not used, once this file leads

    def lead(self, buffer: RowBuffer, most: int) -> int:
        """Adds the next of the rows that no block has had, fewer at the end; returns how many."""
        if self._index is None:
            count = self._file.read(buffer, most)
            self.num_rows += count
            return count
        assert self._numbered is not None
        if self._left is None:
            self._left = np.flatnonzero(~self._is_used)
        numbers, self._left = self._left[:most], self._left[most:]
        self._numbered.append(buffer, numbers)
        return len(numbers)

    def follow(self, buffer: RowBuffer, count: int, places: np.ndarray) -> None:
        """Adds the rows of the first `count` ids in the buffer, and fills in where they are, int64 [count]."""
        num_done = 0
        if self._index is None:
            first = buffer.num_rows
            num_read = self._file.read(buffer, count)
            num_done = _num_equal(buffer.id_bytes, buffer.id_bounds, first, num_read)
            places[:num_done] = np.arange(first, first + num_done)
            if num_done == num_read:  # all, or all that there are
                self.num_rows += num_read
                return
            buffer.num_rows = first + num_done
            self._start_index(self.num_rows + num_done)
        assert self._index is not None and self._numbered is not None
        found = self._index.find(buffer.id_bytes, buffer.id_bounds[num_done : count + 1])
        is_found = found != ABSENT
        numbers = found[is_found]
        places[num_done:][is_found] = np.arange(buffer.num_rows, buffer.num_rows + len(numbers))
        self._is_used[numbers] = True
        self._numbered.append(buffer, numbers)

    def check_ids(self) -> None:
        """Checks that no id is there twice."""
        if self._index is None:
            self._start_index(0)

    def _start_index(self, num_used: int) -> None:
        numbered = self._file.numbered()
        self._numbered, self._index = numbered, IdIndex(numbered.id_data, numbered.id_starts, numbered.id_lengths)
        first, again = self._index.twice
        if again >= 0:
            start = int(numbered.id_starts[first])
            video_id = numbered.id_data[start : start + int(numbered.id_lengths[first])].tobytes().decode()
            raise ValueError(
                f"{self.path}: video {video_id!r} is there twice: {numbered.place(first)}, {numbered.place(again)}"
            )
        self.num_rows = len(self._index)
        self._is_used = np.zeros(self.num_rows, bool)
        self._is_used[:num_used] = True


@borrowing
def _num_equal(id_bytes: np.ndarray, id_bounds: np.ndarray, first: int, count: int) -> int:
    """Returns how many of the rows from `first` on have the ids of the rows from 0 on, in the same order."""
    for row in range(count):
        start, other = id_bounds[row], id_bounds[first + row]
        length = id_bounds[row + 1] - start
        if id_bounds[first + row + 1] - other != length:
            return row
        for offset in range(length):
            if id_bytes[start + offset] != id_bytes[other + offset]:
                return row
    return count
