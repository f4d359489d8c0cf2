"""What a data set's shards are meant to be: their sizes, counts and checksums, in one JSON file beside them.

`jobs.inspect` writes and compares it; training checks sizes before it begins (`check_shards`) and counts after each
epoch (`check_num_records`). A manifest says what is there, not that it is good: records that are refused count too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import NonNegativeInt

from yt8m_ray.data.storage.filesystem import file_sizes
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import read_document, replace_file
from yt8m_ray.registry import Config, first_fault

_COUNTS = ("bytes", "num_records", "num_videos", "num_frames")
_MOST_FAULTS = 3


class ShardEntry(Config):
    """One shard.

    Attributes:
        path: In the file relative to its folder where the shard lies below that; in memory absolute, or a URI.
        num_records: Records present, good and bad.
        num_frames: Their frames; 0 at video level.
        crc32c: CRC-32C of the whole file, 8 hexadecimal digits.
    """

    path: str
    bytes: NonNegativeInt
    num_records: NonNegativeInt
    num_videos: NonNegativeInt
    num_frames: NonNegativeInt
    crc32c: Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{8}$")]


class _Totals(Config):
    num_shards: NonNegativeInt
    bytes: NonNegativeInt
    num_records: NonNegativeInt
    num_videos: NonNegativeInt
    num_frames: NonNegativeInt


class _Document(Config):
    """The file; a later version that says something else gets another number."""

    version: Literal[1]
    totals: _Totals
    shards: list[ShardEntry]


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the manifest says."""

    path: str
    message: str


class Manifest:
    """The entries of a manifest.

    Args:
        entries: One for each shard, with absolute paths or URIs.

    Attributes:
        path: The file, absolute.
        entries: By path, in the order of the paths.
    """

    def __init__(self, path: str | Path, entries: Iterable[ShardEntry]) -> None:
        self.path = os.path.abspath(path)
        self.entries = {entry.path: entry for entry in sorted(entries, key=lambda entry: entry.path)}

    def num_videos_of(self, shards: Iterable[str]) -> int:
        """Returns how many videos shards hold together, all of which are in the manifest."""
        return sum(self.entries[shard].num_videos for shard in shards)

    def num_records_of(self, shards: Iterable[str]) -> list[int]:
        """Returns how many records each shard holds, all of which are in the manifest."""
        return [self.entries[shard].num_records for shard in shards]

    def save(self) -> None:
        """Writes the file aside and renames it; its bytes depend on the entries and their places alone.

        Each shard is a line, so that two manifests can be compared line by line.
        """
        folder = os.path.dirname(self.path)
        entries = [{**entry.model_dump(), "path": _relative(path, folder)} for path, entry in self.entries.items()]
        totals = {"num_shards": len(entries)} | {name: sum(entry[name] for entry in entries) for name in _COUNTS}
        lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
        text = f'{{\n  "version": 1,\n  "totals": {json.dumps(totals)},\n  "shards": [\n{lines}\n  ]\n}}\n'
        replace_file(Path(self.path), lambda aside: aside.write_text(text, encoding="utf-8"))


def load_manifest(path: str | Path) -> Manifest:
    """Returns the manifest of a local file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no manifest, or not one that adds up.
    """
    try:
        document = _Document.model_validate(parse_json(read_document(path), where=str(path)))
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: not a manifest of version 1: {first_fault(error)}") from None
    folder = os.path.dirname(os.path.abspath(path))
    entries = [entry.model_copy(update={"path": _absolute(entry.path, folder)}) for entry in document.shards]
    manifest = Manifest(path, entries)
    if len(manifest.entries) < len(entries):
        raise ValueError(f"{path}: {len(entries)} shards, {len(manifest.entries)} different paths; each has one entry")
    sums = {"num_shards": len(entries)} | {name: sum(getattr(entry, name) for entry in entries) for name in _COUNTS}
    for name, value in sums.items():
        if getattr(document.totals, name) != value:
            found = getattr(document.totals, name)
            raise ValueError(f"{path}: totals.{name}: expected {value}, the sum over the shards, found {found}")
    return manifest


def check_shards(manifest: Manifest, shards: Sequence[str]) -> None:
    """Checks that all shards are in the manifest, and that all of the manifest are there in their sizes.

    A manifest may speak of several splits: its shards need not all be among `shards`, but each must exist, since a
    shard that is lost is missing from what a glob gives too. Folders are listed; no shard is opened.

    Raises:
        ValueError: naming the first shards where it is otherwise.
        OSError: a folder cannot be listed.
    """
    faults = [
        f"{shard}: not in the manifest, which has {len(manifest.entries)} other shards"
        for shard in shards
        if shard not in manifest.entries
    ]
    sizes = file_sizes(manifest.entries)
    for path, entry in manifest.entries.items():
        if sizes[path] != entry.bytes:
            found = "no such file" if sizes[path] is None else str(sizes[path])
            faults.append(f"{path}: expected {entry.bytes} bytes, found {found}")
    if faults:
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise ValueError(f"{manifest.path}: {'; '.join(faults[:_MOST_FAULTS])}{more}")


def check_num_records(shards: Sequence[str], expected: Sequence[int], found: Mapping[int, int]) -> None:
    """Checks the records that were counted while the shards were read.

    Args:
        found: By the shard's number in the list.

    Raises:
        ValueError: naming the first shard where it is otherwise.
    """
    for index, (path, num_records) in enumerate(zip(shards, expected, strict=True)):
        if found.get(index) != num_records:
            raise ValueError(f"{path}: expected {num_records} records (manifest), found {found.get(index, 'none')}")


def differences(manifest: Manifest, entries: Iterable[ShardEntry]) -> list[Difference]:
    """Returns everything in which shards that were read whole differ from the manifest, in the order of the paths."""
    found = {entry.path: entry for entry in entries}
    faults = []
    for path in sorted(found.keys() | manifest.entries.keys()):
        if path not in manifest.entries:
            faults.append(Difference(path, f"{path}: not in the manifest {manifest.path}"))
        elif path not in found:
            faults.append(Difference(path, f"{path}: in the manifest {manifest.path}, but not among the shards read"))
        else:
            for name in (*_COUNTS, "crc32c"):
                wanted, actual = getattr(manifest.entries[path], name), getattr(found[path], name)
                if wanted != actual:
                    faults.append(Difference(path, f"{path}: {name}: expected {wanted}, found {actual}"))
    return faults


def _relative(path: str, folder: str) -> str:
    inside = os.path.join(folder, "")
    return Path(path.removeprefix(inside)).as_posix() if "://" not in path and path.startswith(inside) else path


def _absolute(path: str, folder: str) -> str:
    return path if "://" in path else os.path.normpath(os.path.join(folder, path))
