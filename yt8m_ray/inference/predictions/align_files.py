"""What several prediction files say of each video, whatever the order of their rows."""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from yt8m_ray.inference.predictions.reader import PredictionFile
from yt8m_ray.inference.predictions.rows import Row

NUM_NAMED = 5

_ABSENT = -1
_PAIR_BYTES = 12  # float64 and int32


class AlignedVideo(NamedTuple):
    """A video, and the row of each file, None where a file has none."""

    video_id: str
    rows: Sequence[Row | None]


class Alignment:
    """The videos of several files: those of the first in its order, then those that only later files have, in theirs.

    The files are read once, when this object is made; their rows wait in temporary files, 12 bytes a pair. Memory holds
    some 180 bytes for each video, and 12 more for each file.

    Raises:
        ValueError: a file has no video, or one of them twice; or a row of it is not sound.
        OSError: it cannot be read.
    """

    def __init__(self, files: Sequence[PredictionFile]) -> None:
        self._numbers: dict[str, int] = {}  # in the order in which the ids came
        self._files = [_SpooledFile(file, self._numbers) for file in files]

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[AlignedVideo]:
        for video_id, number in self._numbers.items():
            yield AlignedVideo(video_id, [file.read(video_id, number) for file in self._files])

    def missing(self) -> list[str]:
        """Returns, for each file that lacks videos, its path, how many these are, and the ids of the first few."""
        remarks = []
        for file in self._files:
            count = len(self) - len(file)
            if count:
                lacking = (video_id for video_id, number in self._numbers.items() if not file.has(number))
                names = ", ".join(itertools.islice(lacking, NUM_NAMED))
                more = ", ..." if count > NUM_NAMED else ""
                remarks.append(f"{file.path}: {count} of {len(self)} videos are missing: {names}{more}")
        return remarks


class _SpooledFile:
    """The rows of a file in a temporary file without a name, which vanishes with the process."""

    def __init__(self, file: PredictionFile, numbers: dict[str, int]) -> None:
        self.path = file.path
        self._num_rows = 0
        self._starts, self._num_pairs = array("q"), array("i")  # of each video, by its number
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read for as long as this object lives
        start = 0
        for _, row in file.rows():
            number = numbers.setdefault(row.video_id, len(numbers))
            if self.has(number):
                raise ValueError(_twice(file, row.video_id))
            num_new = number + 1 - len(self._starts)
            if num_new > 0:
                self._starts.extend([_ABSENT] * num_new)
                self._num_pairs.extend([0] * num_new)
            count = len(row.class_ids)
            self._starts[number], self._num_pairs[number] = start, count
            start += self._file.write(struct.pack(f"{count}d{count}i", *row.scores, *row.class_ids))
            self._num_rows += 1
        self._file.flush()
        if not self._num_rows:
            raise ValueError(f"{file.path}: no predictions")

    def __len__(self) -> int:
        return self._num_rows

    def has(self, number: int) -> bool:
        return number < len(self._starts) and self._starts[number] != _ABSENT

    def read(self, video_id: str, number: int) -> Row | None:
        if not self.has(number):
            return None
        count = self._num_pairs[number]
        data = os.pread(self._file.fileno(), _PAIR_BYTES * count, self._starts[number])
        numbers = struct.unpack(f"{count}d{count}i", data)
        return Row(video_id, numbers[count:], numbers[:count])


def _twice(file: PredictionFile, video_id: str) -> str:
    # The file is read again, so that no place has to be kept of all the videos that are there once.
    places = itertools.islice((place for place, row in file.rows() if row.video_id == video_id), 2)
    return f"{file.path}: video {video_id!r} is there twice: {', '.join(places)}"
