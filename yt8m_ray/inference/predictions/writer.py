"""Writes files of predictions: the CSV of the Kaggle competitions, byte for byte, the same in gzip, and Parquet."""

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
    {"video_id": pa.string(), "class_ids": pa.list_(pa.int32()), "scores": pa.list_(pa.float32())}
)
SUFFIXES = (".csv", ".csv.gz", ".parquet")

_COPY_BYTES = 1 << 20
# Of gzip: 9, the default of GzipFile, takes twice as long for one part in a hundred.
_COMPRESSION = 6


def csv_line(video_id: str, text: str) -> bytes:
    """Returns the line `video_id,text`; ValueError where an id would need quotes, which the format does not have."""
    if any(character in video_id for character in ',"\r\n'):
        raise ValueError(f"video id {video_id!r} holds a comma, a quote or a line break: write a .parquet file")
    return f"{video_id},{text}\n".encode()


def _csv_row(row: Row) -> bytes:
    # "%g", six significant digits, as in the published inference script; one format of all pairs takes half the time
    # of one each.
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
    finally:
        with contextlib.suppress(FileNotFoundError):  # it was renamed, or could not be opened
            os.unlink(aside)


def _packing(file: BinaryIO, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if not path.endswith(".gz"):
        return contextlib.nullcontext(file)
    # Without name and time, so that the rows decide every byte.
    packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_COMPRESSION, mtime=0)
    return cast(contextlib.AbstractContextManager[BinaryIO], packed)


class SubmissionWriter:
    """A context manager that writes predictions to `path`, in the format of its suffix; after an error nothing stays.

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
        self._stack = contextlib.ExitStack()
        self._write: Callable[[Sequence[Row]], object] | None = None

    def open(self) -> Self:
        """Starts the file; `close` gives it its name."""
        file = self._stack.enter_context(written_aside(self.path))
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
        """Appends rows, in their order; ValueError where a CSV cannot carry an id."""
        if self._write is None:
            raise ValueError(f"{self.path}: a SubmissionWriter writes inside its with block")
        self._write(rows)
        self.num_videos += len(rows)

    def close(self) -> None:
        """Ends the file."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write = None
        self._stack.__exit__(kind, error, trace)


def join_submissions(parts: Sequence[str], path: str) -> None:
    """Writes the rows of files, Parquet where `path` is, else plain CSV, to `path`; it appears when it is complete."""
    with written_aside(path) as file:
        if path.endswith(".parquet"):
            with pq.ParquetWriter(file, PARQUET_SCHEMA) as writer:
                # A group at a time: however large a part is, little of it is in memory.
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
