"""A file of lines, prediction CSV or ground truth, in memory that the system takes back: in order, or at any place."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np

from yt8m_ray.compiled import compiled
from yt8m_ray.inference.predictions.decimals import UNDECIDED
from yt8m_ray.inference.predictions.file_content import FileContent
from yt8m_ray.inference.predictions.row_text import (
    DONE,
    FULL,
    UNUSUAL,
    buffer_arrays,
    find_comma,
    parse_line,
    read_lines,
)
from yt8m_ray.inference.predictions.rows import MOST_CLASSES, RowBuffer, RowError

_MAPPED_BYTES = 32 << 20
"""Of the file, read before the system may take its pages back: they would count as memory of this process."""

_ROOM = 1 << 16
_NEWLINE = b"\n"
_NO_STARTS = np.empty(0, np.int64)


class MappedLines:
    """The lines of a file behind its header, if there is one.

    Args:
        content: Of the file.
        is_scored: Whether a line holds (class, score) pairs, or class ids alone.
        is_header: Says whether the first line is a header.

    Raises:
        ValueError: the file is empty.
    """

    def __init__(self, content: FileContent, *, is_scored: bool, is_header: Callable[[bytes], bool]) -> None:
        self.path = content.path
        self._is_scored = is_scored
        with content.reader() as reader:
            first = reader.readline()
        if not first.strip():
            raise ValueError(f"{self.path}: the {'first line' if first else 'file'} is empty")
        self._map = content.map()
        self.data = np.frombuffer(self._map, np.uint8)[: _end_of_lines(self._map)]
        self._first = self._position = content.start + (len(first) if is_header(first) else 0)
        self._flags = np.zeros(MOST_CLASSES, np.uint8)
        self._released = self._num_mapped = 0

    def read(self, buffer: RowBuffer, max_rows: int) -> int:
        """Adds the next rows, fewer at the end; returns how many."""
        first = buffer.num_rows
        while buffer.num_rows - first < max_rows and self._position < len(self.data):
            left = max_rows - buffer.num_rows + first
            self._position, status = self._read(buffer, self._position, _NO_STARTS, left)[1:]
            if status == FULL:
                _grow(buffer)
            elif status != DONE:
                self._position = self._append_slowly(buffer, self._position)
        self._release_before(self._position)
        return buffer.num_rows - first

    def read_at(self, buffer: RowBuffer, starts: np.ndarray) -> None:
        """Adds the rows whose lines begin at `starts`, in that order."""
        num_read = 0
        while num_read < len(starts):
            count, _, status = self._read(buffer, 0, starts[num_read:], len(starts) - num_read)
            num_read += count
            if status == FULL:
                _grow(buffer)
            elif status != DONE:
                self._append_slowly(buffer, int(starts[num_read]))
                num_read += 1
        self._num_mapped += len(starts) * mmap.PAGESIZE
        if self._num_mapped > _MAPPED_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._num_mapped = 0

    def find_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the id of each line begins, which is where the line does, and how long it is, int64 [N]."""
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        position = self._first
        while position < len(self.data):
            starts, lengths = np.empty(_ROOM, np.int64), np.empty(_ROOM, np.int64)
            count, position, status = _find_ids(self.data, position, starts, lengths)
            if status != DONE:
                starts[count], (lengths[count], position) = position, self._measure_slowly(position)
                count += 1
            parts.append((starts[:count], lengths[:count]))
            self._release_before(position)
        self._released = 0
        empty = np.empty(0, np.int64)
        return np.concatenate([empty, *(part[0] for part in parts)]), np.concatenate(
            [empty, *(part[1] for part in parts)]
        )

    def _read(self, buffer: RowBuffer, position: int, starts: np.ndarray, max_rows: int) -> tuple[int, int, int]:
        """Adds lines as `read_lines` does, and returns what it does."""
        found: tuple[int, int, int] = read_lines(
            self.data,
            position,
            starts,
            max_rows,
            self._is_scored,
            self._flags,
            buffer_arrays(buffer),
            buffer.num_rows,
        )
        buffer.num_rows += found[0]
        return found

    def _append_slowly(self, buffer: RowBuffer, position: int) -> int:
        """Adds the row of a line as Python reads it; returns the position behind it."""
        line = self._line(position)
        buffer.append(*self._parse(line, position))
        return position + len(line)

    def _measure_slowly(self, position: int) -> tuple[int, int]:
        """Returns (the length of a line's id, the position behind the line)."""
        line = self._line(position)
        return len(self._parse(line, position)[0]), position + len(line)

    def _line(self, position: int) -> bytes:
        newline = self._map.find(_NEWLINE, position)
        return self._map[position : newline + 1 if newline >= 0 else len(self._map)]

    def _parse(self, line: bytes, position: int) -> tuple[bytes, list[int], list[float]]:
        try:
            return parse_line(line, is_scored=self._is_scored)
        except RowError as error:
            raise ValueError(f"{self.path}: {self.line_name(position)}: {error}") from None

    def line_name(self, position: int) -> str:
        """Returns `line N` for the line at a position, counted from 1."""
        return f"line {1 + int(np.count_nonzero(self.data[:position] == ord(_NEWLINE)))}"

    def _release_before(self, position: int) -> None:
        if position - self._released > _MAPPED_BYTES:
            pages = position // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, self._released, pages - self._released)
            self._released = pages


def _end_of_lines(data: mmap.mmap) -> int:
    """Returns where the last line ends that is not empty."""
    end = len(data)
    while end and not (tail := data[max(end - _ROOM, 0) : end].rstrip(b"\r\n")):
        end = max(end - _ROOM, 0)
    return end and max(end - _ROOM, 0) + len(tail)


@compiled
def _find_ids(data: np.ndarray, position: int, starts: np.ndarray, lengths: np.ndarray) -> tuple[int, int, int]:
    """Fills in where lines begin and how long their ids are, up to an unusual one; returns as `read_lines`."""
    end, count = len(data), 0
    while position < end and count < len(starts):
        comma = find_comma(data, position, end)
        if comma == UNDECIDED:
            return count, position, UNUSUAL
        starts[count], lengths[count] = position, comma - position
        count += 1
        position = comma
        while position < end and data[position] != 10:
            position += 1
        position = min(position + 1, end)
    return count, position, DONE


def _grow(buffer: RowBuffer) -> None:
    buffer.reserve(len(buffer.bounds), len(buffer.id_bytes), len(buffer.class_ids))
