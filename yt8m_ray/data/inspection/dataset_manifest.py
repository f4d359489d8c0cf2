"""What a data set's shards are meant to be: their sizes, counts and checksums, in one JSON file beside them.

A manifest says what is there, not that it is good: records that training refuses count too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import NonNegativeInt

from yt8m_ray.data.pipeline.read_position import CAUSES
from yt8m_ray.data.storage.filesystem import file_sizes
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import read_document, replace_file
from yt8m_ray.registry import Config, first_fault

_MOST_FAULTS = 3


class _Counts(Config):
    bytes: NonNegativeInt
    num_records: NonNegativeInt
    num_videos: NonNegativeInt
    num_frames: NonNegativeInt


class ShardEntry(_Counts):
    """One shard: its records, good and bad, their frames (0 at video level), and the CRC-32C of the whole file."""

    # In the file relative to its folder where the shard lies below that; in memory absolute, or a URI.
    path: str
    crc32c: Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{8}$")]


class _Totals(_Counts):
    num_shards: NonNegativeInt


class _Document(Config):
    version: Literal[1]
    totals: _Totals
    shards: list[ShardEntry]


@dataclass(frozen=True)
class Failure:
    """What is wrong with a shard."""

    shard: str
    # How many records are refused, by cause; else `unreadable` or `manifest`, once.
    causes: dict[str, int]
    # Of the first fault: the shard, its place, what was expected and what was found.
    first: str

    @property
    def num_rejected(self) -> int:
        """Records refused."""
        return sum(count for cause, count in self.causes.items() if cause in CAUSES)

    def document(self) -> dict[str, Any]:
        """Returns the failure as JSON's types."""
        return {"shard": self.shard, "num_rejected": self.num_rejected, "causes": self.causes, "first": self.first}


class Manifest:
    """The entries of a manifest by path, in the order of the paths."""

    def __init__(self, path: str | Path, entries: Iterable[ShardEntry]) -> None:
        self.path = os.path.abspath(path)
        self.entries = {entry.path: entry for entry in sorted(entries, key=lambda entry: entry.path)}

    def num_videos_of(self, shards: Iterable[str]) -> int:
        """Returns how many videos shards of the manifest hold together."""
        return sum(self.entries[shard].num_videos for shard in shards)

    def num_records_of(self, shards: Iterable[str]) -> list[int]:
        """Returns how many records each of these shards of the manifest holds."""
        return [self.entries[shard].num_records for shard in shards]

    def save(self) -> None:
        """Writes the file; its bytes depend on the entries and their places alone."""
        folder = os.path.dirname(self.path)
        entries = [
            {"path": _relative(path, folder)} | entry.model_dump(exclude={"path"})
            for path, entry in self.entries.items()
        ]
        # A shard is a line, so that `diff` compares two manifests shard by shard.
        lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
        totals = json.dumps(_totals(self.entries.values()))
        text = f'{{\n  "version": 1,\n  "totals": {totals},\n  "shards": [\n{lines}\n  ]\n}}\n'
        replace_file(Path(self.path), lambda aside: aside.write_text(text, encoding="utf-8"))


def load_manifest(path: str | Path) -> Manifest:
    """Returns the manifest of a local file; ValueError where it is none, or its totals do not add up."""
    try:
        document = _Document.model_validate(parse_json(read_document(path), where=str(path)))
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: not a manifest of version 1: {first_fault(error)}") from None
    folder = os.path.dirname(os.path.abspath(path))
    entries = [entry.model_copy(update={"path": _absolute(entry.path, folder)}) for entry in document.shards]
    manifest = Manifest(path, entries)
    if len(manifest.entries) < len(entries):
        raise ValueError(f"{path}: {len(entries)} shards, {len(manifest.entries)} different paths; each has one entry")
    for name, value in _totals(entries).items():
        found = getattr(document.totals, name)
        if found != value:
            raise ValueError(f"{path}: totals.{name}: expected {value}, the sum over the shards, found {found}")
    return manifest


def check_shards(manifest: Manifest, shards: Sequence[str]) -> None:
    """Checks that the manifest has all shards, and that all of its shards have their sizes; ValueError names others."""
    faults = [
        f"{shard}: not in the manifest, which has {len(manifest.entries)} other shards"
        for shard in shards
        if shard not in manifest.entries
    ]
    # All of the manifest, though it may list several splits: a shard that is lost is missing from a glob too.
    sizes = file_sizes(manifest.entries)
    for path, entry in manifest.entries.items():
        if sizes[path] != entry.bytes:
            found = "no such file" if sizes[path] is None else str(sizes[path])
            faults.append(f"{path}: expected {entry.bytes} bytes, found {found}")
    if faults:
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise ValueError(f"{manifest.path}: {'; '.join(faults[:_MOST_FAULTS])}{more}")


def check_num_records(shards: Sequence[str], expected: Sequence[int], found: Mapping[int, int]) -> None:
    """Checks the numbers of records that were read, by the shard's index; ValueError names the first that differs."""
    for index, (path, num_records) in enumerate(zip(shards, expected, strict=True)):
        if found.get(index) != num_records:
            raise ValueError(f"{path}: expected {num_records} records (manifest), found {found.get(index, 'none')}")


def differences(manifest: Manifest, entries: Iterable[ShardEntry]) -> list[Failure]:
    """Returns everything in which shards that were read whole differ from the manifest, in the order of the paths."""
    found = {entry.path: entry for entry in entries}
    faults = []
    for path in sorted(found.keys() | manifest.entries.keys()):
        if path not in manifest.entries:
            faults.append((path, f"not in the manifest {manifest.path}"))
        elif path not in found:
            faults.append((path, f"in the manifest {manifest.path}, but not among the shards read"))
        else:
            wanted, actual = (entry.model_dump(exclude={"path"}) for entry in (manifest.entries[path], found[path]))
            faults += [
                (path, f"{name}: expected {value}, found {actual[name]}")
                for name, value in wanted.items()
                if value != actual[name]
            ]
    return [Failure(path, {"manifest": 1}, f"{path}: {fault}") for path, fault in faults]


def _totals(entries: Collection[ShardEntry]) -> dict[str, int]:
    sums = {name: sum(getattr(entry, name) for entry in entries) for name in _Counts.model_fields}
    return {"num_shards": len(entries), **sums}


def _relative(path: str, folder: str) -> str:
    # A folder can be moved together with its manifest.
    inside = os.path.join(folder, "")
    return Path(path.removeprefix(inside)).as_posix() if "://" not in path and path.startswith(inside) else path


def _absolute(path: str, folder: str) -> str:
    return path if "://" in path else os.path.normpath(os.path.join(folder, path))
