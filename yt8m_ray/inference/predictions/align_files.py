"""The rows of each video in several prediction files, whatever the order of the files."""

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

# Ids that a message lists, however many are meant.
NUM_NAMED = 5
_ABSENT = -1
# Of a pair in a temporary file: the score as float64, which keeps its last bit, and the class id as int32.
_PAIR_BYTES = 12


class AlignedVideo(NamedTuple):
    """A video, and the row of each file, None where a file has none."""

    video_id: str
    rows: Sequence[Row | None]


class Alignment:
    """The videos of several files: those of the first in its order, then those that only later files have, in theirs.

    Takes 12 bytes of disk for each (class, score) pair; of memory some 180 bytes for each video, and 12 for each file.

    Raises:
        ValueError: a file has no video, or one of them twice; or a row of it is not sound.
        OSError: it cannot be read.
    """

    def __init__(self, files: Sequence[PredictionFile]) -> None:
        # The number of each video: files in other orders share it, and the dict keeps the order of the first.
        self._numbers: dict[str, int] = {}
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
    """The rows of a file, which is read once, in a temporary file."""

    def __init__(self, file: PredictionFile, numbers: dict[str, int]) -> None:
        self.path = file.path
        self._num_rows = 0
        # By the number of a video: where its pairs start in the file, and how many they are.
        self._starts, self._num_pairs = array("q"), array("i")
        # It has no name, so that it goes with the process, even a killed one.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read for as long as this object lives
        start = 0
        for _, row in file.rows():
            number = numbers.setdefault(row.video_id, len(numbers))
            if self.has(number):
                # The file is read again, so that no place has to be kept of all the videos that are there once.
                places = itertools.islice((place for place, each in file.rows() if each.video_id == row.video_id), 2)
                raise ValueError(f"{file.path}: video {row.video_id!r} is there twice: {', '.join(places)}")
            num_new = number + 1 - len(self._starts)  # a list times a negative number is empty
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
