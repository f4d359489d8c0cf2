"""Lines of prediction files and of ground truth <-> rows: raw bytes in, raw bytes out, compiled.

Lines as they are nearly always written are read by a loop; any other is left, as UNUSUAL, to `parse_line`, which reads
every legal line and says what is wrong with the others. So no error is told in two ways. Numbers are exact (`decimals`,
`general_format`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from yt8m_ray.compiled import borrowing, inlined
from yt8m_ray.inference.predictions.decimals import UNDECIDED, read_decimal, read_digits
from yt8m_ray.inference.predictions.general_format import MOST_WRITTEN_BYTES, write_general, write_integer
from yt8m_ray.inference.predictions.rows import MOST_CLASSES, PredictionRows, RowBuffer, RowError, check_pairs

DONE, UNUSUAL, FULL = range(3)
"""Why a loop stopped: nothing is left to do, a line or a number for Python, or no room."""

_NEWLINE, _RETURN, _SPACE, _COMMA, _QUOTE, _ZERO, _NINE = b'\n\r ,"09'
_MOST_CLASS_DIGITS = 7
_MOST_PAIR_BYTES = _MOST_CLASS_DIGITS + 1 + MOST_WRITTEN_BYTES + 1
_FORBIDDEN = ',"\r\n'
_WRITE_BYTES = 1 << 20


@inlined
def _behind_line(data: np.ndarray, position: int, end: int) -> int:
    """Returns the position behind a line end, or the file's end, at `position`, else UNDECIDED."""
    if position == end or data[position] == _NEWLINE:
        return min(position + 1, end)
    if data[position] == _RETURN and position + 1 < end and data[position + 1] == _NEWLINE:
        return position + 2
    return UNDECIDED


@inlined
def find_comma(data: np.ndarray, position: int, end: int) -> int:
    """Returns where the comma behind an ordinary id at `position` is, else UNDECIDED."""
    start = position
    while position < end:
        byte = data[np.uint64(position)]
        if byte == _COMMA:
            return position if position > start else UNDECIDED
        if byte <= _SPACE or byte >= 0x7F or byte == _QUOTE:
            return UNDECIDED
        position += 1
    return UNDECIDED


@inlined
def _read_pairs(
    data: np.ndarray, position: int, end: int, is_scored: bool, flags: np.ndarray, target: Any, first: int
) -> tuple[int, int, int]:
    """Reads pairs up to a line end into `target` from `first` on; returns (position, behind the last, why it ended)."""
    class_ids, scores = target[2], target[3]
    pair = first
    behind = _behind_line(data, position, end)
    while behind == UNDECIDED:
        class_id, num_digits = read_digits(data, position, end)
        position += num_digits
        if num_digits == 0 or num_digits > _MOST_CLASS_DIGITS or class_id >= MOST_CLASSES:
            return position, pair, UNUSUAL
        if flags[np.uint64(class_id)]:
            return position, pair, UNUSUAL
        if pair == len(class_ids):
            return position, pair, FULL
        if is_scored:
            if position == end or data[np.uint64(position)] != _SPACE:
                return position, pair, UNUSUAL
            score, position = read_decimal(data, position + 1, end)
            if position == UNDECIDED:
                return position, pair, UNUSUAL
            scores[np.uint64(pair)] = score
        flags[np.uint64(class_id)] = 1
        class_ids[np.uint64(pair)] = class_id
        pair += 1
        if position < end and data[np.uint64(position)] == _SPACE:
            position += 1
        else:
            behind = _behind_line(data, position, end)
            if behind == UNDECIDED:
                return position, pair, UNUSUAL
    return behind, pair, DONE


@inlined
def _read_row(
    data: np.ndarray, position: int, end: int, is_scored: bool, flags: np.ndarray, target: Any, row: int
) -> tuple[int, int]:
    """Reads the line at `position` as a row of `target`; returns (position behind it, DONE), or why not."""
    id_bytes, id_bounds, class_ids, _, bounds = target
    comma = find_comma(data, position, end)
    if comma == UNDECIDED:
        return position, UNUSUAL
    byte = id_bounds[row]
    if row + 2 > len(bounds) or byte + comma - position > len(id_bytes):
        return position, FULL
    for place in range(position, comma):
        id_bytes[np.uint64(byte)] = data[np.uint64(place)]
        byte += 1
    first = bounds[row]
    behind, last, status = _read_pairs(data, comma + 1, end, is_scored, flags, target, first)
    for pair in range(first, last):
        flags[np.uint64(class_ids[np.uint64(pair)])] = 0
    if status != DONE:
        return position, status
    id_bounds[row + 1], bounds[row + 1] = byte, last
    return behind, DONE


@borrowing
def read_lines(
    data: np.ndarray,
    position: int,
    starts: np.ndarray,
    max_rows: int,
    is_scored: bool,
    flags: np.ndarray,
    target: Any,
    num_rows: int,
) -> tuple[int, int, int]:
    """Reads lines until one is unusual or does not fit.

    Args:
        data: uint8 [bytes of the file].
        position: Where the first line begins, if they follow one another.
        starts: int64 [max_rows], where each begins, or none if they follow one another.
        max_rows: Most lines to read.
        is_scored: Whether a line holds pairs, or class ids alone.
        flags: uint8 [MOST_CLASSES], all 0.
        target: The arrays of a `RowBuffer`, filled behind its `num_rows`.
        num_rows: See above.

    Returns:
        (lines read, position of the next line that follows, DONE, UNUSUAL or FULL).
    """
    end, has_starts = len(data), len(starts) > 0
    for count in range(max_rows):
        if has_starts:
            position = starts[count]
        elif position == end:
            return count, position, DONE
        position, status = _read_row(data, position, end, is_scored, flags, target, num_rows + count)
        if status != DONE:
            return count, position, status
    return max_rows, position, DONE


def buffer_arrays(buffer: RowBuffer) -> tuple[np.ndarray, ...]:
    """Returns the arrays that the loops fill."""
    return buffer.id_bytes, buffer.id_bounds, buffer.class_ids, buffer.scores, buffer.bounds


def parse_line(line: bytes, *, is_scored: bool) -> tuple[bytes, list[int], list[float]]:
    """Returns (id, class ids, scores) of a line; of one without scores, the class ids ascending and each once.

    Raises:
        RowError: the line is none.
    """
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise RowError(f"{line[:60]!r} is not UTF-8") from None
    fields = text.split(",")
    if any(character in text for character in '"\r\n'):
        fields = []  # quoted fields are read otherwise
    return parse_fields(fields, text, is_scored=is_scored)


def parse_fields(fields: Sequence[str], text: str, *, is_scored: bool) -> tuple[bytes, list[int], list[float]]:
    """Returns what `parse_line` does of the fields of a line, any quotes around them removed.

    Args:
        fields: Two, if the line is one.
        text: The line, for messages.
        is_scored: As in `parse_line`.

    Raises:
        RowError: the line is none.
    """
    form = "VIDEO_ID,CLASS SCORE CLASS SCORE ..." if is_scored else "VIDEO_ID,CLASS CLASS ..."
    if len(fields) != 2 or not fields[0]:
        raise RowError(f"expected {form}, found {text[:60]!r}")
    video_id, words = fields[0], fields[1].split()
    if is_scored and len(words) % 2:
        raise RowError(f"expected {form}, found {len(words)} words behind the comma, an odd number")
    class_ids = [_number(word, int, "class id") for word in (words[::2] if is_scored else words)]
    scores = [_number(word, float, "score") for word in words[1::2]] if is_scored else []
    check_pairs(class_ids, scores)
    return video_id.encode(), class_ids if is_scored else sorted(set(class_ids)), scores


def _number(word: str, kind: Any, name: str) -> Any:
    try:
        if word.isascii() and "_" not in word:  # Python takes more for a number than other programs do
            return kind(word)
    except ValueError:
        pass
    raise RowError(f"{name} {word[:60]!r}: expected {'an integer' if kind is int else 'a number'}") from None


@borrowing
def write_lines(rows: Any, first_row: int, is_scored: bool, text: np.ndarray) -> tuple[int, int, int]:
    """Writes rows from `first_row` on; returns (next row, bytes written, DONE, UNUSUAL or FULL)."""
    id_bytes, id_bounds, class_ids, scores, bounds = rows
    position = 0
    for row in range(first_row, len(bounds) - 1):
        line = position
        num_pairs = bounds[row + 1] - bounds[row]
        if position + id_bounds[row + 1] - id_bounds[row] + num_pairs * _MOST_PAIR_BYTES + 2 > len(text):
            return row, line, FULL
        for place in range(id_bounds[row], id_bounds[row + 1]):
            byte = id_bytes[np.uint64(place)]
            if byte in (_COMMA, _QUOTE, _NEWLINE, _RETURN):
                return row, line, UNUSUAL
            text[np.uint64(position)] = byte
            position += 1
        text[np.uint64(position)] = _COMMA
        position += 1
        for pair in range(bounds[row], bounds[row + 1]):
            position = write_integer(class_ids[np.uint64(pair)], text, position)
            if is_scored:
                text[np.uint64(position)] = _SPACE
                position = write_general(scores[np.uint64(pair)], text, position + 1)
                if position == UNDECIDED:
                    return row, line, UNUSUAL
            text[np.uint64(position)] = _SPACE
            position += 1
        position -= num_pairs > 0
        text[np.uint64(position)] = _NEWLINE
        position += 1
    return len(bounds) - 1, position, DONE


class LineWriter:
    """Makes lines of rows; its memory is used again."""

    def __init__(self, *, is_scored: bool = True) -> None:
        self._is_scored = is_scored
        self._text = np.empty(_WRITE_BYTES, np.uint8)

    def write(self, rows: PredictionRows, file: BinaryIO) -> None:
        """Writes one line a row: the id, a comma, then `class score` pairs, or class ids, with single spaces between.

        Scores are written as "%g", six significant digits, like the published inference script does.

        Raises:
            ValueError: an id holds a comma, a quote or a line break, which this format cannot carry.
        """
        arrays = rows.id_bytes, rows.id_bounds, rows.class_ids, rows.scores, rows.bounds
        row = 0
        while row < len(rows):
            row, num_bytes, status = write_lines(arrays, row, self._is_scored, self._text)
            file.write(self._text[:num_bytes].data)
            if status == UNUSUAL:
                file.write(self._line(rows, row))
                row += 1
            elif status == FULL and not num_bytes:
                self._text = np.empty(2 * len(self._text), np.uint8)

    def _line(self, rows: PredictionRows, row: int) -> bytes:
        """Returns a line as Python writes it."""
        video_id = rows.video_id(row)
        if any(character in video_id for character in _FORBIDDEN):
            raise ValueError(f"video id {video_id!r} holds a comma, a quote or a line break: write a .parquet file")
        first, last = rows.bounds[row], rows.bounds[row + 1]
        words = [str(class_id) for class_id in rows.class_ids[first:last].tolist()]
        if self._is_scored:
            scores = rows.scores[first:last].tolist()
            words = [f"{class_id} {score:g}" for class_id, score in zip(words, scores, strict=True)]
        return f"{video_id},{' '.join(words)}\n".encode()
