"""Where the checkpoints of a run are kept, each whole or not at all; the best and the last ones stay."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import safetensors

from yt8m_ray.artifacts.checkpoint_folders import CHECKPOINT_PATTERN, latest_checkpoint, score_of
from yt8m_ray.artifacts.folder_manifest import MANIFEST_FILE
from yt8m_ray.errors import YT8MError
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import read_document

_ASIDE = ".aside-"


class CheckpointWriteError(YT8MError, OSError):
    """A checkpoint that could not be written; the earlier ones are as they were."""


class Checkpoints(Protocol):
    """The checkpoints of one run, by name; the best ones stay, as many as the run keeps, and the last."""

    def save(self, name: str, write: Callable[[Path], None]) -> None:
        """Keeps what `write(folder)` writes, and removes superfluous ones; CheckpointWriteError where it cannot."""

    def latest(self) -> str | None:
        """Returns the name of the intact checkpoint that is furthest on, or None."""

    def path(self, name: str) -> Path:
        """Returns the folder of a checkpoint on this machine."""


class LocalCheckpoints:
    """Those in a folder of this machine, or one that all machines share."""

    def __init__(self, folder: Path, *, num_to_keep: int) -> None:
        self._folder = folder
        self._num_to_keep = num_to_keep

    def save(self, name: str, write: Callable[[Path], None]) -> None:
        aside, place = self._folder / f"{_ASIDE}{name}", self._folder / name
        try:
            # What writes left that were cut short.
            for path in self._folder.glob(f"{_ASIDE}*"):
                shutil.rmtree(path, ignore_errors=True)
            aside.mkdir()
            write(aside)
            # A name must never come to the disk before what it names.
            for path in (*aside.rglob("*"), aside):
                _to_disk(path)
            # A broken one, or one that was not validated.
            if place.exists():
                self._remove(name)
            aside.rename(place)
            _to_disk(self._folder)
        except (OSError, safetensors.SafetensorError) as error:
            if not self._folder.is_dir():
                raise CheckpointWriteError(
                    f"{self._folder}: the folder of the run was removed while the run was at work"
                ) from None
            shutil.rmtree(aside, ignore_errors=True)
            latest = self.latest()
            kept = f"the last one is {latest}" if latest else "there is none yet"
            raise CheckpointWriteError(f"{place}: the checkpoint cannot be written: {error}; {kept}") from None
        manifests = {path.name: path / MANIFEST_FILE for path in self._folder.glob(CHECKPOINT_PATTERN)}
        contents = {name: read_document(path) if path.is_file() else None for name, path in manifests.items()}
        for old in superfluous(contents, self._num_to_keep):
            # It is tried again after the next one.
            with contextlib.suppress(OSError):
                self._remove(old)

    def latest(self) -> str | None:
        path = latest_checkpoint(self._folder)
        return None if path is None else path.name

    def path(self, name: str) -> Path:
        return self._folder / name

    def _remove(self, name: str) -> None:
        away = self._folder / f"{_ASIDE}old-{name}"
        shutil.rmtree(away, ignore_errors=True)
        # At once: a process that reads meanwhile finds all of it or nothing.
        (self._folder / name).rename(away)
        shutil.rmtree(away)


def superfluous(manifests: Mapping[str, bytes | None], num_to_keep: int) -> list[str]:
    """Returns the names that are neither the last nor among the best by validation GAP; a later one wins a tie."""
    scores = {name: _score_in(manifest) for name, manifest in manifests.items()}
    # Names sort by progress.
    best = sorted(scores, key=lambda name: (scores[name], name), reverse=True)[:num_to_keep]
    return sorted(scores.keys() - {*best, max(scores)})


def _score_in(manifest: bytes | None) -> float:
    try:
        return score_of(parse_json(manifest or b"null", where=MANIFEST_FILE, nan=True)["metrics"])
    except (ValueError, KeyError, TypeError, AttributeError):
        # No manifest of a checkpoint: below one that was not validated.
        return -2.0


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
