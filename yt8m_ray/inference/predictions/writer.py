"""Prediction files: the CSV of the Kaggle competitions, byte for byte, the same in gzip, and as Parquet.

They are written chunk by chunk, and a file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.rows import Row

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


def csv_line(video_id: str, text: str) -> bytes:
    """Returns a line of an id and what is said of it; nothing is quoted.

    Raises:
        ValueError: an id holds a comma, a quote or a line break, which this format cannot carry.
    """
    if any(character in video_id for character in ',"\r\n'):
        raise ValueError(f"video id {video_id!r} holds a comma, a quote or a line break: write a .parquet file")
    return f"{video_id},{text}\n".encode()


def _csv_row(row: Row) -> bytes:
    # "%g", six significant digits, like the published inference script; one format of all pairs is twice as fast as
    # one format each.
    pairs = itertools.chain.from_iterable(zip(row.class_ids, row.scores, strict=True))
    return csv_line(row.video_id, " ".join(["%d %g"] * len(row.class_ids)) % tuple(pairs))


def _parquet_table(rows: Sequence[Row]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[], [], []], schema=PARQUET_SCHEMA)


@contextlib.contextmanager
def written_aside(path: str) -> Iterator[BinaryIO]:
    """Gives a file that gets the name `path` when the block ends; after an error nothing stays."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    aside = path + ".tmp"
    try:
        with open(aside, "wb") as file:
            yield file
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it could not be opened
            os.unlink(aside)
        raise


@contextlib.contextmanager
def _packing(file: BinaryIO, path: str) -> Iterator[BinaryIO]:
    """Gives the stream that text is written to, which packs it where `path` ends in .gz; the rows decide all bytes."""
    if not path.endswith(".gz"):
        yield file
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_COMPRESSION, mtime=0) as packed:
        yield cast(BinaryIO, packed)


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
        self._stack = contextlib.ExitStack()
        self._write: Callable[[Sequence[Row]], object] | None = None

    def open(self) -> Self:
        """Starts the file; `finish` or `discard` ends it."""
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        file = self._stack.enter_context(open(self._aside, "wb"))  # noqa: SIM115 - the stack closes it
        if self.suffix == ".parquet":
            table = self._stack.enter_context(pq.ParquetWriter(file, PARQUET_SCHEMA))
            self._write = lambda rows: table.write_table(_parquet_table(rows))
        else:
            text = self._stack.enter_context(_packing(file, self.path))
            text.write(CSV_HEADER)
            self._write = lambda rows: text.writelines(map(_csv_row, rows))
        return self

    def write(self, video_ids: Sequence[str], predictions: TopK) -> None:
        """Appends one row a video, in the given order."""
        columns = predictions.class_ids.tolist(), predictions.scores.tolist()
        self.write_rows([Row(*row) for row in zip(video_ids, *columns, strict=True)])

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Appends rows, in their order.

        Raises:
            ValueError: it is not open, or an id holds a comma, a quote or a line break, which a CSV cannot carry.
        """
        if self._write is None:
            raise ValueError(f"{self.path}: a SubmissionWriter writes inside its with block")
        self._write(rows)
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
        self._write = None
        self._stack.close()


def join_submissions(parts: Sequence[str], path: str) -> None:
    """Writes the rows of CSV or Parquet files, in the order given, to `path`; it appears when it is complete.

    Args:
        parts: Parquet files where `path` is one, else CSV files that are not packed.
        path: See above.
    """
    with written_aside(path) as file:
        if path.endswith(".parquet"):
            with pq.ParquetWriter(file, PARQUET_SCHEMA) as writer:
                for part in map(pq.ParquetFile, parts):
                    for group in range(part.num_row_groups):
                        writer.write_table(part.read_row_group(group))
            return
        with _packing(file, path) as text:
            text.write(CSV_HEADER)
            for part in parts:
                with open(part, "rb") as rows:
                    rows.seek(len(CSV_HEADER))
                    shutil.copyfileobj(rows, text, _COPY_BYTES)
