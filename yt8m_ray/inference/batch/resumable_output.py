"""Predictions and soft labels of many shards: a finished shard survives a kill, and is not computed again."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from yt8m_ray.data.labels.soft_label_files import (
    INDEX_FILE,
    LabelledShard,
    SoftLabelIndex,
    SoftLabelJob,
    label_file,
    shard_name,
    write_labels,
)
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.writer import SubmissionWriter, join_submissions
from yt8m_ray.json_document import append_json_line, parse_json, read_json_lines
from yt8m_ray.local_files import read_document, replace_file
from yt8m_ray.topk import TopK


class ResumableOutput(abc.ABC):
    """A folder in which a job writes one file a shard."""

    # job.json says what the files have in common, done.jsonl has a line for each that is finished. A file counts by its
    # line alone: of a shard that a kill cut short, a part may be there.

    def __init__(self, folder: Path, job: Mapping[str, Any], *, contents: str) -> None:
        self._folder, self._job, self._contents = folder, dict(job), contents
        self._job_file, self._done_file = folder / "job.json", folder / "done.jsonl"

    @property
    @abc.abstractmethod
    def done(self) -> list[int]:
        """Finished shards, ascending."""

    @abc.abstractmethod
    def write(self, shard: int, result: Any, rows: np.ndarray) -> None:
        """Adds the `rows`, int64 [N], of a worker's result to the file of a shard."""

    @abc.abstractmethod
    def finish(self, shard: int, num_records: int, rejected: Counter[str]) -> None:
        """Completes the file of a shard; `rejected` counts its bad records by cause."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """Removes unfinished files, and the folder if no shard is finished."""

    def _begin(self, *, completed: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Returns the entries of earlier calls; ConfigError where those, or the `completed` job, are of another job."""
        self._folder.mkdir(parents=True, exist_ok=True)
        found = completed
        if found is None and self._job_file.exists():
            found = parse_json(read_document(self._job_file), where=str(self._job_file))
        elif found is None:
            found, text = self._job, json.dumps(self._job) + "\n"
            replace_file(self._job_file, lambda aside: aside.write_text(text, encoding="utf-8"))
        if found != self._job:
            raise ConfigError(
                f"output: {self._folder} holds {self._contents} of {found}; these are of {self._job}; remove it, or "
                "choose another"
            )
        return read_json_lines(self._done_file)


class PredictionParts(ResumableOutput):
    """The parts of a prediction file, in the folder `OUTPUT.parts`.

    Raises:
        ConfigError: the folder holds parts of another prediction, or no format has the suffix of `output`.
    """

    def __init__(self, output: str, *, model_version: str, shards: Sequence[str], top_k: int) -> None:
        # A digest: a training set has thousands of shards, and the job is shown in an error.
        digest = hashlib.sha256("\n".join(shards).encode()).hexdigest()
        job = {"model": model_version, "shards": len(shards), "sha256_of_shards": digest, "top_k": top_k}
        super().__init__(Path(f"{output}.parts"), job, contents="predictions")
        self._output, self._num_shards = output, len(shards)
        # The whole is packed, not each part.
        self._suffix = SubmissionWriter(output).suffix.removesuffix(".gz")
        self._open: dict[int, SubmissionWriter] = {}
        entries = {entry.pop("shard"): Counter(entry) for entry in self._begin()}
        self._counts = {shard: counts for shard, counts in entries.items() if Path(self._part(shard)).exists()}

    @property
    def done(self) -> list[int]:
        return sorted(self._counts)

    @property
    def counts(self) -> Counter[str]:
        """`num_videos` and rejected records by cause, over all finished parts."""
        return sum(self._counts.values(), Counter())

    def write(self, shard: int, result: tuple[Sequence[str], TopK], rows: np.ndarray) -> None:
        """Adds `rows` of the ids of videos and their best classes."""
        video_ids, best = result
        if rows.size:
            taken = TopK(class_ids=best.class_ids[rows], scores=best.scores[rows])
            self._writer(shard).write([video_ids[row] for row in rows], taken)

    def finish(self, shard: int, num_records: int, rejected: Counter[str]) -> None:
        # A shard without a video has a part, too.
        writer = self._writer(shard)
        writer.close()
        del self._open[shard]
        self._counts[shard] = Counter({"num_videos": writer.num_videos}) + rejected
        append_json_line(self._done_file, {"shard": shard, **self._counts[shard]})

    def abandon(self) -> None:
        for writer in self._open.values():
            # Its name does no harm: the part is not in done.jsonl.
            writer.close()
            os.unlink(writer.path)
        self._open = {}
        if not self._counts:
            shutil.rmtree(self._folder)

    def join(self) -> None:
        """Joins the parts, in the order of the shards, and removes them."""
        join_submissions([self._part(shard) for shard in range(self._num_shards)], self._output)
        shutil.rmtree(self._folder)

    def _writer(self, shard: int) -> SubmissionWriter:
        if shard not in self._open:
            self._open[shard] = SubmissionWriter(self._part(shard)).open()
        return self._open[shard]

    def _part(self, shard: int) -> str:
        return str(self._folder / f"{shard:06d}{self._suffix}")


class SoftLabelParts(ResumableOutput):
    """The files of a soft-label data set; a complete one takes more shards of the same job.

    Raises:
        ConfigError: the folder holds labels of another job or the shards themselves, or two shards have one name.
    """

    def __init__(self, folder: Path, job: SoftLabelJob, shards: Sequence[str]) -> None:
        super().__init__(folder, job.model_dump(), contents="labels")
        self._format = job.format
        self._names = [shard_name(path) for path in shards]
        self._check(shards)
        # Of shards that are begun: rows, which are sorted at the end, or a file and the number of its records.
        self._tables: dict[int, list[pa.Table]] = {}
        self._files: dict[int, tuple[BinaryIO, int]] = {}
        index = SoftLabelIndex.load(str(folder)) if (folder / INDEX_FILE).exists() else None
        entries = self._begin(completed=None if index is None else index.model_dump(exclude={"shards"}))
        known = [*([] if index is None else index.shards), *map(LabelledShard.model_validate, entries)]
        # A file that was changed or removed since then is made again.
        self._done = {
            entry.name: entry
            for entry, path in ((entry, folder / entry.file) for entry in known)
            if path.exists() and path.stat().st_size == entry.bytes
        }

    @property
    def done(self) -> list[int]:
        return [index for index, name in enumerate(self._names) if name in self._done]

    @property
    def num_videos(self) -> int:
        """Videos of all finished files."""
        return sum(entry.num_videos for entry in self._done.values())

    def write(self, shard: int, result: pa.Table | Sequence[bytes], rows: np.ndarray) -> None:
        """Adds `rows` of a table, or of framed records."""
        if isinstance(result, pa.Table):
            self._tables.setdefault(shard, []).append(result.take(rows))
        else:
            file, count = self._files.get(shard) or (open(self._aside(shard), "wb"), 0)  # noqa: SIM115 - until finish
            file.writelines(result[row] for row in rows)
            self._files[shard] = (file, count + len(rows))

    def finish(self, shard: int, num_records: int, rejected: Counter[str]) -> None:
        path, name = self._path(shard), self._names[shard]
        if self._format == "tfrecord":
            file, num_videos = self._files.pop(shard)
            file.close()
            os.replace(self._aside(shard), path)
        else:
            tables = self._tables.pop(shard)
            num_videos = sum(map(len, tables))
            write_labels(path, tables)
        self._done[name] = LabelledShard(
            name=name, file=path.name, bytes=path.stat().st_size, num_records=num_records, num_videos=num_videos
        )
        append_json_line(self._done_file, self._done[name].model_dump())

    def abandon(self) -> None:
        for shard, (file, _) in self._files.items():
            file.close()
            self._aside(shard).unlink(missing_ok=True)
        self._files, self._tables = {}, {}
        if not self._done:
            self._job_file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the user has files of their own in it
                self._folder.rmdir()

    def complete(self) -> SoftLabelIndex:
        """Writes the index of all finished shards, those of earlier calls too, and returns it."""
        index = SoftLabelIndex.model_validate(
            {**self._job, "shards": [self._done[name].model_dump() for name in sorted(self._done)]}
        )
        index.save(self._folder)
        # After the index, so that a kill in between loses nothing.
        self._job_file.unlink(missing_ok=True)
        self._done_file.unlink(missing_ok=True)
        return index

    def _check(self, shards: Sequence[str]) -> None:
        paths: dict[str, str] = {}
        for name, path in zip(self._names, shards, strict=True):
            if paths.setdefault(name, path) != path:
                raise ConfigError(f"shards: {paths[name]} and {path} have one name, by which labels are found")
            # A file of labels may have the name of its shard.
            if os.path.realpath(os.path.dirname(path)) == os.path.realpath(self._folder):
                raise ConfigError(f"output: {self._folder} holds {path}, which is to be labelled; choose another")

    def _path(self, shard: int) -> Path:
        return self._folder / label_file(self._names[shard], self._format)

    def _aside(self, shard: int) -> Path:
        return self._folder / f"{self._path(shard).name}.tmp"
