"""Soft labels of many shards as they are made, one file a shard: what is finished survives a kill, and is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pydantic

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

_JOB_FILE = "job.json"
_DONE_FILE = "done.jsonl"


class SoftLabelParts:
    """The finished files of a set, and those being written.

    Args:
        folder: Where they are; made where it is missing. A finished set takes more shards from the same teacher.
        job: What is made.
        shards: Paths of what is labelled.

    Raises:
        ConfigError: the folder holds labels of another teacher or in another form, or the shards themselves, or two
            shards have one name.
    """

    def __init__(self, folder: Path, job: SoftLabelJob, shards: Sequence[str]) -> None:
        self._folder = folder
        self._job = job
        self._names = [shard_name(path) for path in shards]
        self._check(shards)
        self._done: dict[str, LabelledShard] = {}
        self._tables: dict[int, list[pa.Table]] = {}
        self._files: dict[int, tuple[BinaryIO, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._begin()

    @property
    def done(self) -> list[int]:
        """Shards whose labels are finished."""
        return [index for index, name in enumerate(self._names) if name in self._done]

    @property
    def finished(self) -> list[LabelledShard]:
        """What is finished of this set, of other commands too, by name."""
        return [self._done[name] for name in sorted(self._done)]

    def write(self, shard: int, labels: pa.Table | Sequence[bytes]) -> None:
        """Adds videos to a shard's file: rows, or framed records in their order."""
        if isinstance(labels, pa.Table):
            self._tables.setdefault(shard, []).append(labels)
        else:
            file, count = self._files.get(shard) or (open(self._aside(shard), "wb"), 0)  # noqa: SIM115 - until finish
            file.writelines(labels)
            self._files[shard] = (file, count + len(labels))

    def finish(self, shard: int, *, num_records: int) -> None:
        """Gives a shard's file its name; from now on the shard is not labelled again."""
        path = self._path(shard)
        if self._job.format == "tfrecord":
            file, num_videos = self._files.pop(shard)
            file.close()
            os.replace(self._aside(shard), path)
        else:
            tables = self._tables.pop(shard)
            num_videos = sum(map(len, tables))
            write_labels(path, tables)
        entry = LabelledShard(
            name=self._names[shard],
            file=path.name,
            bytes=path.stat().st_size,
            num_records=num_records,
            num_videos=num_videos,
        )
        with (self._folder / _DONE_FILE).open("a", encoding="utf-8") as done:
            done.write(entry.model_dump_json() + "\n")
        self._done[entry.name] = entry

    def abandon(self) -> None:
        """Drops what is unfinished; the folder goes too where nothing else is in it."""
        for shard, (file, _) in self._files.items():
            file.close()
            self._aside(shard).unlink(missing_ok=True)
        self._files, self._tables = {}, {}
        if not self._done:
            (self._folder / _JOB_FILE).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds something else
                self._folder.rmdir()

    def complete(self) -> SoftLabelIndex:
        """Writes the index of all that is finished and returns it."""
        index = SoftLabelIndex(**self._job.model_dump(), shards=self.finished)
        index.save(self._folder)
        for name in (_JOB_FILE, _DONE_FILE):
            (self._folder / name).unlink(missing_ok=True)
        return index

    def _check(self, shards: Sequence[str]) -> None:
        paths: dict[str, str] = {}
        for name, path in zip(self._names, shards, strict=True):
            if paths.setdefault(name, path) != path:
                raise ConfigError(f"shards: {paths[name]} and {path} have one name, by which labels are found")
            if os.path.realpath(os.path.dirname(path)) == os.path.realpath(self._folder):
                raise ConfigError(f"--output: {self._folder} holds {path}, which is to be labelled; choose another")

    def _begin(self) -> None:
        job_file, index_file = self._folder / _JOB_FILE, self._folder / INDEX_FILE
        if index_file.exists():
            index = SoftLabelIndex.load(str(self._folder))
            found = SoftLabelJob(**index.model_dump(exclude={"shards"}))
            entries = index.shards
        else:
            found = SoftLabelJob.model_validate_json(job_file.read_bytes()) if job_file.exists() else self._job
            entries = []
        if found != self._job:
            raise ConfigError(
                f"--output: {self._folder} holds labels of {found.model_dump()}; these are of "
                f"{self._job.model_dump()}; remove it, or choose another"
            )
        if not index_file.exists() and not job_file.exists():
            aside = job_file.with_suffix(".tmp")
            aside.write_text(self._job.model_dump_json() + "\n", encoding="utf-8")
            os.replace(aside, job_file)
        for entry in [*entries, *self._done_lines()]:
            path = self._folder / entry.file
            if path.exists() and path.stat().st_size == entry.bytes:
                self._done[entry.name] = entry

    def _done_lines(self) -> list[LabelledShard]:
        path = self._folder / _DONE_FILE
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text and not text.endswith("\n"):  # a kill cut it short: the next line is not to be added to it
            path.write_text(text + "\n", encoding="utf-8")
        entries = []
        for line in text.splitlines():
            with contextlib.suppress(pydantic.ValidationError):  # a line that a kill cut short
                entries.append(LabelledShard.model_validate_json(line))
        return entries

    def _path(self, shard: int) -> Path:
        return self._folder / label_file(self._names[shard], self._job.format)

    def _aside(self, shard: int) -> Path:
        return self._folder / f"{self._path(shard).name}.tmp"
