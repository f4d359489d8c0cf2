"""Prediction files of any system, row by row: the competition's CSV, our Parquet, JSON lines or an array.

What a file holds decides how it is read, in order or by row number; text may be in gzip or zip.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.file_content import FileContent
from yt8m_ray.inference.predictions.json_items import array_items, line_items
from yt8m_ray.inference.predictions.mapped_lines import MappedLines
from yt8m_ray.inference.predictions.row_text import parse_fields
from yt8m_ray.inference.predictions.rows import (
    MOST_CLASSES,
    PredictionRows,
    RowBuffer,
    RowError,
    check_pairs,
    find_bad_row,
)

_HEADER = b"videoid,labelconfidencepairs"
_PARQUET_MAGIC = b"PAR1"
_JSON = (b"{", b"[")
_QUOTE = b'"'
_END = object()
_COLUMNS = ("video_id", "class_ids", "scores")
_BATCH_ROWS = 4096


class NumberedRows(Protocol):
    """Rows of a file by their number, whatever the order.

    Attributes:
        id_data: uint8, where the ids lie.
        id_starts: int64 [N], where each begins.
        id_lengths: int64 [N], their bytes.
    """

    id_data: np.ndarray
    id_starts: np.ndarray
    id_lengths: np.ndarray

    def append(self, buffer: RowBuffer, numbers: np.ndarray) -> None:
        """Adds the rows with the given numbers, in that order."""

    def place(self, number: int) -> str:
        """Returns where a row is in the file, in words."""


class PredictionFile(Protocol):
    """A prediction file that is being read.

    Attributes:
        path: As given.
    """

    path: str

    def read(self, buffer: RowBuffer, max_rows: int) -> int:
        """Adds the next rows, fewer at the end; returns how many."""

    def numbered(self) -> NumberedRows:
        """Returns all rows by number, those read already too."""


def open_predictions(path: str) -> PredictionFile:
    """Returns a file of predictions, of the format that its first bytes are in.

    Raises:
        ConfigError: there is no such local file.
        ValueError: it is empty, is packed and not to be unpacked, or a Parquet file of something else.
    """
    if "://" in path or not os.path.isfile(path):
        raise ConfigError(f"{path}: expected a local file of predictions, .csv, .parquet or JSON")
    content = FileContent(path)
    if content.head(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
        if content.is_decoded:
            raise ValueError(f"{path}: a Parquet file is compressed in itself; unpack it")
        return _ParquetFile(path)
    with content.reader() as reader:
        first = reader.read(64).lstrip()[:1]
    if first in _JSON:
        return _JsonFile(content, is_array=first == b"[")
    return open_lines(content, is_scored=True, is_header=lambda line: line.replace(b'"', b"").lower() == _HEADER)


def open_lines(content: FileContent, *, is_scored: bool, is_header: Callable[[bytes], bool]) -> PredictionFile:
    """Returns the rows of a CSV, whose fields may be quoted.

    Args:
        content: Of the file.
        is_scored: Whether a line holds (class, score) pairs, or class ids alone.
        is_header: Says whether the first line, without its end, is a header.

    Raises:
        ValueError: it is empty.
    """
    if content.holds(_QUOTE):  # only then may a line end inside a field
        return _QuotedCsvFile(content, is_scored=is_scored, is_header=is_header)
    return _CsvFile(content, is_scored=is_scored, is_header=is_header)


class _CsvFile:
    def __init__(self, content: FileContent, *, is_scored: bool, is_header: Callable[[bytes], bool]) -> None:
        self.path = content.path
        self._lines = MappedLines(content, is_scored=is_scored, is_header=lambda line: is_header(line.strip()))

    def read(self, buffer: RowBuffer, max_rows: int) -> int:
        return self._lines.read(buffer, max_rows)

    def numbered(self) -> NumberedRows:
        return _NumberedLines(self._lines)


class _NumberedLines:
    def __init__(self, lines: MappedLines) -> None:
        self._lines = lines
        self.id_data = lines.data
        self.id_starts, self.id_lengths = lines.find_ids()

    def append(self, buffer: RowBuffer, numbers: np.ndarray) -> None:
        self._lines.read_at(buffer, self.id_starts[numbers])

    def place(self, number: int) -> str:
        return self._lines.line_name(int(self.id_starts[number]))


class _Blocks:
    """A file that is decoded block by block; rows in any order come from a copy of it on the disk."""

    def __init__(self, path: str, row_name: str) -> None:
        self.path = path
        self._row_name = row_name
        self._blocks = self._decode()
        self._block = RowBuffer(0).rows()
        self._next_row = 0

    def read(self, buffer: RowBuffer, max_rows: int) -> int:
        num_read = 0
        while num_read < max_rows:
            if self._next_row == len(self._block):
                block = next(self._blocks, None)
                if block is None:
                    break
                self._block, self._next_row = block, 0
            count = min(max_rows - num_read, len(self._block) - self._next_row)
            buffer.extend(self._block, np.arange(self._next_row, self._next_row + count))
            self._next_row += count
            num_read += count
        return num_read

    def numbered(self) -> NumberedRows:
        return _SpooledRows(self._decode(), self._row_name)

    def _decode(self) -> Iterator[PredictionRows]:
        """Yields the rows in blocks, each valid until the next is asked for."""
        raise NotImplementedError


Row = tuple[bytes, list[int], list[float]]
"""A video's id, class ids and scores."""


class _Text(_Blocks):
    """A text whose rows Python parses one by one.

    Args:
        content: Of the file.
        unit: What a row is called by its number, from 1 on.
    """

    def __init__(self, content: FileContent, unit: str) -> None:
        super().__init__(content.path, unit)
        self._content = content

    def _decode(self) -> Iterator[PredictionRows]:
        buffer = RowBuffer()
        for row in self._parse():
            buffer.append(*row)
            if buffer.num_rows == _BATCH_ROWS:
                yield buffer.rows()
                buffer.clear()
        yield buffer.rows()

    def _parse(self) -> Iterator[Row]:
        raise NotImplementedError


class _QuotedCsvFile(_Text):
    """Lines as RFC 4180 has them, for ids that hold commas and quotes too."""

    def __init__(self, content: FileContent, *, is_scored: bool, is_header: Callable[[bytes], bool]) -> None:
        super().__init__(content, "row")
        self._is_scored, self._is_header = is_scored, is_header

    def _parse(self) -> Iterator[Row]:
        with (
            self._content.reader() as reader,
            io.TextIOWrapper(reader, "utf-8", errors="surrogateescape", newline="") as text,
        ):
            lines = csv.reader(text, strict=True)
            try:
                for fields in lines:
                    if not fields:
                        continue  # an empty line
                    joined = ",".join(fields)
                    if lines.line_num == 1 and self._is_header(joined.encode()):
                        continue
                    yield parse_fields(fields, joined, is_scored=self._is_scored)
            except UnicodeEncodeError:
                raise ValueError(f"{self.path}: line {lines.line_num}: {joined[:60]!r} is not UTF-8") from None
            except (csv.Error, RowError) as error:
                raise ValueError(f"{self.path}: line {lines.line_num}: {error}") from None


class _JsonFile(_Text):
    """Objects, one a line or all in an array.

    Each has `video_id`, `class_indexes` and `predictions`, lists of N or a list with one such list.
    """

    def __init__(self, content: FileContent, *, is_array: bool) -> None:
        super().__init__(content, "object" if is_array else "line")
        self._is_array = is_array

    def _parse(self) -> Iterator[Row]:
        with self._content.reader() as reader:
            items = array_items(reader) if self._is_array else line_items(reader)
            for number in itertools.count(1):
                try:
                    found = next(items, _END)
                    if found is _END:
                        return
                    row = _parse_object(found)
                except RowError as error:
                    raise ValueError(f"{self.path}: {self._row_name} {number}: {error}") from None
                yield row


def _parse_object(found: Any) -> Row:
    video_id = found.get("video_id") if isinstance(found, dict) else None
    if not isinstance(video_id, str) or not video_id:
        raise RowError("expected an object with video_id, class_indexes and predictions")
    class_ids, scores = _list_of(found, "class_indexes"), _list_of(found, "predictions")
    if len(class_ids) != len(scores):
        raise RowError(f"{len(class_ids)} class_indexes and {len(scores)} predictions")
    if not all(type(class_id) is int for class_id in class_ids) or not all(type(s) in (int, float) for s in scores):
        raise RowError("expected integers in class_indexes and numbers in predictions")
    try:
        encoded, scores = video_id.encode(), [float(score) for score in scores]
    except OverflowError:
        raise RowError("a prediction has hundreds of digits; expected a number from 0 on") from None
    except UnicodeEncodeError:
        raise RowError(f"video_id {video_id!r}: half of a character is no UTF-8") from None
    check_pairs(class_ids, scores)
    return encoded, class_ids, scores


def _list_of(found: dict[str, Any], key: str) -> list[Any]:
    values = found.get(key)
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        values = values[0]  # frame-level models predict a list of lists
    if not isinstance(values, list):
        raise RowError(f"{key}: expected a list")
    return values


class _ParquetFile(_Blocks):
    """The columns video_id, class_ids and scores, as `SubmissionWriter` writes them."""

    def __init__(self, path: str) -> None:
        try:
            schema = pq.read_schema(path)
        except pa.ArrowException as error:
            raise ValueError(f"{path}: not a sound Parquet file: {error}") from None
        if not set(_COLUMNS) <= set(schema.names):
            raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}, found {', '.join(schema.names)}")
        super().__init__(path, "row")

    def _decode(self) -> Iterator[PredictionRows]:
        flags = np.zeros(MOST_CLASSES, np.uint8)
        num_rows = 0
        for batch in pq.ParquetFile(self.path).iter_batches(_BATCH_ROWS, columns=list(_COLUMNS)):
            rows = self._rows(batch, num_rows)
            bad = find_bad_row(rows.bounds, rows.class_ids, rows.scores, flags)
            if bad >= 0:
                first, last = rows.bounds[bad], rows.bounds[bad + 1]
                try:
                    check_pairs(rows.class_ids[first:last].tolist(), rows.scores[first:last].tolist())
                except RowError as error:
                    raise ValueError(f"{self.path}: row {num_rows + bad}: {error}") from None
            yield rows
            num_rows += len(rows)

    def _rows(self, batch: pa.RecordBatch, num_before: int) -> PredictionRows:
        where = f"{self.path}: rows {num_before} to {num_before + len(batch) - 1}"
        try:
            batch.validate(full=True)
            ids = batch["video_id"].cast(pa.large_utf8()).cast(pa.large_binary())
            class_ids = batch["class_ids"].cast(pa.large_list(pa.int32()))
            scores = batch["scores"].cast(pa.large_list(pa.float64()))
        except pa.ArrowException as error:
            raise ValueError(f"{where}: {error}") from None
        columns = (ids, class_ids, scores, class_ids.values, scores.values)
        if any(column.null_count for column in columns):
            raise ValueError(f"{where}: a value is missing")
        bounds = class_ids.offsets.to_numpy()
        if not np.array_equal(bounds - bounds[0], scores.offsets.to_numpy() - scores.offsets[0].as_py()):
            raise ValueError(f"{where}: class_ids and scores differ in length")
        id_bounds = np.frombuffer(ids.buffers()[1], np.int64)[ids.offset : ids.offset + len(ids) + 1]
        id_bytes = np.frombuffer(ids.buffers()[2] or b"", np.uint8)[id_bounds[0] : id_bounds[-1]]
        if not np.all(np.diff(id_bounds)):
            raise ValueError(f"{where}: a video_id is empty")
        return PredictionRows(
            id_bytes.copy(),
            id_bounds - id_bounds[0],
            class_ids.flatten().to_numpy().copy(),
            scores.flatten().to_numpy().copy(),
            bounds - bounds[0],
        )


class _SpooledRows:
    """Rows in temporary files without names, which vanish with the process; ids and bounds stay in memory."""

    def __init__(self, blocks: Iterator[PredictionRows], row_name: str) -> None:
        self._row_name = row_name
        id_bounds, bounds = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
        with tempfile.TemporaryFile() as ids, tempfile.TemporaryFile() as class_ids, tempfile.TemporaryFile() as scores:
            for rows in blocks:
                rows.id_bytes.tofile(ids)
                rows.class_ids.tofile(class_ids)
                rows.scores.tofile(scores)
                id_bounds.append(rows.id_bounds[1:] + id_bounds[-1][-1])
                bounds.append(rows.bounds[1:] + bounds[-1][-1])
            self._rows = PredictionRows(
                _mapped(ids, np.uint8),
                np.concatenate(id_bounds),
                _mapped(class_ids, np.int32),
                _mapped(scores, np.float64),
                np.concatenate(bounds),
            )
        self.id_data = self._rows.id_bytes
        self.id_starts, self.id_lengths = self._rows.id_bounds[:-1], np.diff(self._rows.id_bounds)

    def append(self, buffer: RowBuffer, numbers: np.ndarray) -> None:
        buffer.extend(self._rows, numbers)

    def place(self, number: int) -> str:
        return f"row {number}" if self._row_name == "row" else f"{self._row_name} {number + 1}"


def _mapped(file: Any, dtype: type) -> np.ndarray:
    file.flush()
    if not os.fstat(file.fileno()).st_size:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(file, dtype, "r+"))
