"""Prediction files: the CSV of the Kaggle competitions, byte for byte, the same in gzip, and as Parquet.

They are written chunk by chunk, and a file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.row_text import LineWriter
from yt8m_ray.inference.predictions.rows import PredictionRows

if TYPE_CHECKING:  # torch takes a second to import, and files that are merged never need it
    from yt8m_ray.topk import TopK

CSV_HEADER = b"VideoId,LabelConfidencePairs\n"
PARQUET_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string()),
        pa.field("class_ids", pa.list_(pa.int32())),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)
SUFFIXES = (".csv", ".csv.gz", ".parquet")

_COPY_BYTES = 1 << 20
_COMPRESSION = 6  # of gzip: 9, its default here, takes twice as long for one part in a hundred


def csv_rows(video_ids: Sequence[str], predictions: TopK) -> bytes:
    """Returns one line a video: the id, a comma, then `class score` pairs, best first, joined by single spaces.

    Scores are written as "%g", six significant digits, like the published inference script does; nothing is quoted.

    Raises:
        ValueError: an id holds a comma, a quote or a line break, which this format cannot carry.
    """
    lines = []
    rows = zip(video_ids, predictions.class_ids.tolist(), predictions.scores.tolist(), strict=True)
    for video_id, class_ids, scores in rows:
        if any(character in video_id for character in ',"\r\n'):
            raise ValueError(f"video id {video_id!r} holds a comma, a quote or a line break: write a .parquet file")
        pairs = " ".join(f"{class_id:d} {score:g}" for class_id, score in zip(class_ids, scores, strict=True))
        lines.append(f"{video_id},{pairs}\n")
    return "".join(lines).encode("utf-8")


def parquet_table(video_ids: Sequence[str], predictions: TopK) -> pa.Table:
    """Returns the rows with the columns video_id, class_ids (list of int32) and scores (list of float32)."""
    columns = [list(video_ids), predictions.class_ids.tolist(), predictions.scores.tolist()]
    return pa.table(columns, schema=PARQUET_SCHEMA)


def rows_table(rows: PredictionRows) -> pa.Table:
    """Returns rows with the columns of `parquet_table`."""
    ids = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(rows.id_bounds), pa.py_buffer(rows.id_bytes)]
    )
    bounds = pa.array(rows.bounds.astype(np.int32))
    class_ids = pa.ListArray.from_arrays(bounds, pa.array(rows.class_ids))
    scores = pa.ListArray.from_arrays(bounds, pa.array(rows.scores.astype(np.float32)))
    return pa.table([ids.cast(pa.string()), class_ids, scores], schema=PARQUET_SCHEMA)


class _Sink(Protocol):
    def write(self, video_ids: Sequence[str], predictions: TopK) -> None: ...

    def write_rows(self, rows: PredictionRows) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def _packing(file: BinaryIO, path: str) -> Iterator[BinaryIO]:
    """Gives the stream that text is written to, which packs it where `path` ends in .gz; the rows decide all bytes."""
    if not path.endswith(".gz"):
        yield file
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_COMPRESSION, mtime=0) as packed:
        yield cast(BinaryIO, packed)


class _CsvSink:
    def __init__(self, file: BinaryIO, path: str) -> None:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(file)
        self._file = file = self._stack.enter_context(_packing(file, path))
        self._lines = LineWriter()
        file.write(CSV_HEADER)

    def write(self, video_ids: Sequence[str], predictions: TopK) -> None:
        self._file.write(csv_rows(video_ids, predictions))

    def write_rows(self, rows: PredictionRows) -> None:
        self._lines.write(rows, self._file)

    def close(self) -> None:
        self._stack.close()


class _ParquetSink:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer = pq.ParquetWriter(file, PARQUET_SCHEMA)

    def write(self, video_ids: Sequence[str], predictions: TopK) -> None:
        self._writer.write_table(parquet_table(video_ids, predictions))

    def write_rows(self, rows: PredictionRows) -> None:
        self._writer.write_table(rows_table(rows))

    def close(self) -> None:
        self._writer.close()
        self._file.close()


class SubmissionWriter:
    """A context manager that writes predictions to `path`, in the format of its suffix.

    Rows are written aside and the file is renamed when the block ends; after an error nothing stays.

    Example:
        with SubmissionWriter("predictions.csv") as writer:
            writer.write(["aaaa", "bbbb"], predictor.predict(rows, top_k=20))
    """

    def __init__(self, path: str) -> None:
        if not path.endswith(SUFFIXES):
            raise ConfigError(
                f"output: expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, found {path!r}"
            )
        self.path = path
        self.suffix = next(filter(path.endswith, SUFFIXES))
        self.num_videos = 0
        self._aside = path + ".tmp"
        self._sink: _Sink | None = None

    def open(self) -> Self:
        """Starts the file; `finish` or `discard` ends it."""
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        file = open(self._aside, "wb")  # noqa: SIM115 - the sink closes it
        self._sink = _ParquetSink(file) if self.suffix == ".parquet" else _CsvSink(file, self.path)
        return self

    def write(self, video_ids: Sequence[str], predictions: TopK) -> None:
        """Appends one row a video, in the given order."""
        if self._sink is None:
            raise ValueError(f"{self.path}: a SubmissionWriter writes inside its with block")
        self._sink.write(video_ids, predictions)
        self.num_videos += len(video_ids)

    def write_rows(self, rows: PredictionRows) -> None:
        """Appends rows, in their order."""
        if self._sink is None:
            raise ValueError(f"{self.path}: a SubmissionWriter writes inside its with block")
        self._sink.write_rows(rows)
        self.num_videos += len(rows)

    def finish(self) -> None:
        """Gives the file its name."""
        self._close()
        os.replace(self._aside, self.path)

    def discard(self) -> None:
        """Leaves nothing of the file."""
        self._close()
        os.unlink(self._aside)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()


def join_submissions(parts: Sequence[str], path: str) -> None:
    """Writes the rows of CSV or Parquet files, in the order given, to `path`; it appears when it is complete.

    Args:
        parts: Parquet files where `path` is one, else CSV files that are not packed.
        path: See above.
    """
    aside = path + ".tmp"
    with open(aside, "wb") as file:
        if not path.endswith(".parquet"):
            with _packing(file, path) as text:
                text.write(CSV_HEADER)
                for part in parts:
                    with open(part, "rb") as rows:
                        rows.seek(len(CSV_HEADER))
                        shutil.copyfileobj(rows, text, _COPY_BYTES)
        else:
            with pq.ParquetWriter(file, PARQUET_SCHEMA) as writer:
                for part in parts:
                    for group in range((source := pq.ParquetFile(part)).num_row_groups):
                        writer.write_table(source.read_row_group(group))
    os.replace(aside, path)
