"""Reads prediction files of any system by their content: the competition's CSV, our Parquet, JSON lines or arrays."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.file_content import PARQUET_MAGIC, array_items, open_text
from yt8m_ray.inference.predictions.rows import Row, RowError, check_pairs, parse_fields
from yt8m_ray.inference.predictions.writer import PARQUET_SCHEMA
from yt8m_ray.json_document import unique

# A row after its place in the file: `line 3`, `object 3`, or `row 2` of a Parquet file, which counts from 0.
PlacedRow = tuple[str, Row]


class PredictionFile(NamedTuple):
    """A file of predictions or of ground truth."""

    path: str
    # Opens the file and yields its rows; one that is not sound is a ValueError with the path and the place.
    rows: Callable[[], Iterator[PlacedRow]]


_HEADER = "videoid,labelconfidencepairs"
_COLUMNS = PARQUET_SCHEMA.names
# Rows of a Parquet file that are Python objects at once.
_BATCH_ROWS = 4096
# Enough to tell a format: white space may stand before the first bracket.
_HEAD_CHARACTERS = 64


def open_predictions(path: str) -> PredictionFile:
    """Returns a file of predictions, read by the format that its first bytes show.

    Raises:
        ConfigError: there is no such local file.
        ValueError: it is empty, cannot be unpacked, or is a Parquet file of something else.
    """
    if "://" in path or not os.path.isfile(path):
        raise ConfigError(f"{path}: expected a local file of predictions, .csv, .parquet or JSON")
    with open(path, "rb") as file:
        if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
            return PredictionFile(path, partial(_parquet_rows, path, _open_parquet(path)))
    with open_text(path) as text:
        first = text.read(_HEAD_CHARACTERS).lstrip()[:1]
    if first == "[":
        return PredictionFile(path, partial(_array_rows, path))
    if first == "{":
        return PredictionFile(path, partial(_line_rows, path, partial(map, _parse_line)))
    return open_csv(path, is_scored=True, is_header=lambda line: line.lower() == _HEADER)


def open_csv(path: str, *, is_scored: bool, is_header: Callable[[str], bool]) -> PredictionFile:
    """Returns a local CSV, whose fields may be quoted; ValueError where it is empty or cannot be unpacked.

    Args:
        is_scored: Whether a line holds (class, score) pairs, or class ids alone.
        is_header: Says whether the first line, without quotes, is a header.
    """
    # Here, so that an empty file is refused before others are read for minutes.
    with open_text(path) as text:
        head = text.read(_HEAD_CHARACTERS)
    if not head.partition("\n")[0].strip():
        raise ValueError(f"{path}: the {'first line' if head else 'file'} is empty")
    return PredictionFile(path, partial(_line_rows, path, partial(_csv_rows, is_scored=is_scored, is_header=is_header)))


class _Lines:
    """The lines of a text, counted, without the empty ones at its end."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self.num_read = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.num_read += 1
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError:  # the text keeps what is no UTF-8 as surrogates
                raise RowError(f"{line[:60].encode(errors='surrogateescape')!r} is not UTF-8") from None
        # An empty line in the middle is returned, and refused: it may be where a row was lost.
        if line.isspace() and all(later.isspace() for later in self._text):
            raise StopIteration
        return line


def _line_rows(path: str, parse: Callable[[_Lines], Iterator[Row]]) -> Iterator[PlacedRow]:
    with open_text(path) as text:
        lines = _Lines(text)
        try:
            for row in parse(lines):
                yield f"line {lines.num_read}", row
        except (csv.Error, RowError) as error:
            raise ValueError(f"{path}: line {lines.num_read}: {error}") from None


def _csv_rows(lines: _Lines, *, is_scored: bool, is_header: Callable[[str], bool]) -> Iterator[Row]:
    for line in lines:
        is_first = lines.num_read == 1
        text = line.rstrip("\r\n")
        fields = text.split(",")
        if '"' in text or "\r" in text:
            # As RFC 4180 has it, for ids that hold commas, quotes and line ends too: more lines may belong to the row.
            fields = next(csv.reader(itertools.chain([line], lines), strict=True))
            text = ",".join(fields)
        if not (is_first and is_header(text.strip())):
            yield parse_fields(fields, text, is_scored=is_scored)


def _parse_line(line: str) -> Row:
    try:
        found = json.loads(line, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise RowError(f"expected a JSON object, found {line[:60].encode()!r} ({error})") from None
    return _parse_object(found)


def _array_rows(path: str) -> Iterator[PlacedRow]:
    number = 1
    # Strict, as JSON lets surrogates pass, which stand for bytes that are no UTF-8.
    with open_text(path, errors="strict") as text:
        try:
            for found in array_items(text):
                yield f"object {number}", _parse_object(found)
                number += 1
        except (RowError, UnicodeDecodeError) as error:
            reason = f"not UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else error
            raise ValueError(f"{path}: object {number}: {reason}") from None


def _parse_object(found: Any) -> Row:
    # As the published service answers with it.
    video_id = found.get("video_id") if isinstance(found, dict) else None
    if not isinstance(video_id, str) or not video_id:
        raise RowError("expected an object with video_id, class_indexes and predictions")
    class_ids, scores = _list_of(found, "class_indexes"), _list_of(found, "predictions")
    if len(class_ids) != len(scores):
        raise RowError(f"{len(class_ids)} class_indexes and {len(scores)} predictions")
    # JSON's true is an int of Python's, too.
    if not all(type(class_id) is int for class_id in class_ids) or not all(type(s) in (int, float) for s in scores):
        raise RowError("expected integers in class_indexes and numbers in predictions")
    try:
        video_id.encode()  # JSON may name half of a surrogate pair
        scores = [float(score) for score in scores]
    except UnicodeEncodeError:
        raise RowError(f"video_id {video_id[:60]!r}: half of a character is no UTF-8") from None
    except OverflowError:
        raise RowError("a prediction has hundreds of digits; expected a number from 0 on") from None
    check_pairs(class_ids, scores)
    return Row(video_id, class_ids, scores)


def _list_of(found: dict[str, Any], key: str) -> list[Any]:
    values = found.get(key)
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        values = values[0]  # frame-level models predict a list of lists
    if not isinstance(values, list):
        raise RowError(f"{key}: expected a list")
    return values


def _open_parquet(path: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a sound Parquet file: {error}") from None
    names = file.schema_arrow.names
    if not set(_COLUMNS) <= set(names):
        raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}, found {', '.join(names)}")
    return file


def _parquet_rows(path: str, file: pq.ParquetFile) -> Iterator[PlacedRow]:
    num_before = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=_COLUMNS):
        rows = _batch_rows(batch, f"{path}: rows {num_before} to {num_before + len(batch) - 1}")
        for number, row in enumerate(rows, num_before):
            try:
                check_pairs(row.class_ids, row.scores)
            except RowError as error:
                raise ValueError(f"{path}: row {number}: {error}") from None
            yield f"row {number}", row
        num_before += len(rows)


def _batch_rows(batch: pa.RecordBatch, where: str) -> list[Row]:
    try:
        # Arrow trusts the offsets and the text of a file, which may be damaged.
        batch.validate(full=True)
        # Other programs write other widths of the same types.
        ids = batch["video_id"].cast(pa.large_utf8())
        class_ids = batch["class_ids"].cast(pa.large_list(pa.int32()))
        scores = batch["scores"].cast(pa.large_list(pa.float64()))
    except pa.ArrowException as error:
        raise ValueError(f"{where}: {error}") from None
    flat = class_ids.flatten(), scores.flatten()
    if any(column.null_count for column in (ids, class_ids, scores, *flat)):
        raise ValueError(f"{where}: a value is missing")
    lengths = class_ids.value_lengths()
    if not lengths.equals(scores.value_lengths()):
        raise ValueError(f"{where}: class_ids and scores differ in length")
    names = ids.to_pylist()
    if "" in names:
        raise ValueError(f"{where}: a video_id is empty")
    # Through NumPy: Arrow makes a Python object of each number for to_pylist, ten times as slow.
    all_ids, all_scores = (column.to_numpy().tolist() for column in flat)
    bounds = [0, *itertools.accumulate(lengths.to_pylist())]
    return [
        Row(name, all_ids[first:last], all_scores[first:last])
        for name, (first, last) in zip(names, itertools.pairwise(bounds), strict=True)
    ]
