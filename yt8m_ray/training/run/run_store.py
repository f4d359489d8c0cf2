"""A run whose output is an object store: its checkpoints there, and a copy of its folder on the driver's machine."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import safetensors

from yt8m_ray.artifacts.checkpoint_folders import CHECKPOINT_PATTERN
from yt8m_ray.artifacts.folder_manifest import MANIFEST_FILE, CheckpointError, local_folder
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.storage.folders import (
    is_remote,
    join_uri,
    list_folders,
    read_file,
    remove_folder,
    upload_folder,
    write_file,
)
from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.history import HISTORY_FILE
from yt8m_ray.training.run.checkpoints import (
    Checkpoints,
    CheckpointWriteError,
    LocalCheckpoints,
    superfluous,
)
from yt8m_ray.training.run.run_folder import LOCK_FILE, LOG_FILE, REPORT_FOLDER, RUN_FILE, RunRecord, run_path

logger = logging.getLogger(__name__)

# Files that a continued run adds to, on whichever machine it continues.
_GROWING = (LOG_FILE, HISTORY_FILE)


class StoredCheckpoints:
    """Those in an object store, below `uri`."""

    def __init__(self, uri: str, *, num_to_keep: int) -> None:
        self._uri = uri
        self._num_to_keep = num_to_keep

    def save(self, name: str, write: Callable[[Path], None]) -> None:
        place = join_uri(self._uri, name)
        try:
            with tempfile.TemporaryDirectory(prefix="yt8m_checkpoint_") as aside:
                write(Path(aside))
                # The manifest last: a folder that has one is whole.
                upload_folder(Path(aside), place, last=MANIFEST_FILE)
        except (OSError, safetensors.SafetensorError) as error:
            message = f"{place}: the checkpoint cannot be written: {error}; the earlier ones stay"
            raise CheckpointWriteError(message) from None
        # It is tried again after the next one.
        with contextlib.suppress(OSError):
            manifests = {one: read_file(join_uri(self._uri, one, MANIFEST_FILE)) for one in self._names()}
            for old in superfluous(manifests, self._num_to_keep):
                remove_folder(join_uri(self._uri, old), first=MANIFEST_FILE)

    def latest(self) -> str | None:
        for name in reversed(self._names()):
            try:
                self.path(name)
            except CheckpointError as error:
                logger.warning("passed over: %s", error)
            else:
                return name
        return None

    def path(self, name: str) -> Path:
        return local_folder(join_uri(self._uri, name))

    def _names(self) -> list[str]:
        return list_folders(self._uri, CHECKPOINT_PATTERN, last=MANIFEST_FILE)


class RunStore:
    """Where a run is kept: in a folder, or in an object store with a copy on this machine.

    ConfigError where an object store is given, but no place for what MLflow keeps.
    """

    # The copy is pulled before it is read and pushed when it has changed, so that all else works on a folder. The lock
    # on it holds on one machine only.
    def __init__(self, config: TrainConfig) -> None:
        self.folder = run_path(config)
        self._num_to_keep = config.checkpoint.num_to_keep
        self._uri = join_uri(config.output, config.run.name) if is_remote(config.output) else None
        if self._uri is not None and config.tracking.uri is None:
            raise ConfigError(
                f"tracking.uri: expected an address such as http://127.0.0.1:5000 where output is {config.output}; "
                "MLflow keeps no run there by itself"
            )

    @property
    def is_remote(self) -> bool:
        """Whether the run is in an object store."""
        return self._uri is not None

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of the run, for its workers."""
        # Pickled to the workers, which write the checkpoints.
        if self._uri is None:
            return LocalCheckpoints(self.folder, num_to_keep=self._num_to_keep)
        return StoredCheckpoints(self._uri, num_to_keep=self._num_to_keep)

    def place_of(self, checkpoint: Path) -> str:
        """Returns where a checkpoint of the folder is for other machines."""
        return str(checkpoint) if self._uri is None else join_uri(self._uri, checkpoint.name)

    def pull(self) -> None:
        """Makes the copy equal to the store; OSError where that cannot be read."""
        if self._uri is None:
            return
        names = list_folders(self._uri, CHECKPOINT_PATTERN, last=MANIFEST_FILE)
        contents = {name: read_file(join_uri(self._uri, name)) for name in (RUN_FILE, *_GROWING)}
        if not names and contents[RUN_FILE] is None:
            # A run that was removed there.
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            path = self.folder / name
            # A driver that was killed has not pushed its last lines.
            is_behind = name in _GROWING and path.exists() and path.stat().st_size > len(content or b"")
            if content is not None and not is_behind:
                path.write_bytes(content)
        for old in self.folder.glob(CHECKPOINT_PATTERN):
            if old.name not in names:
                shutil.rmtree(old)
        for name in names:
            # `latest` logs a damaged one.
            with contextlib.suppress(CheckpointError):
                shutil.copytree(local_folder(join_uri(self._uri, name)), self.folder / name, dirs_exist_ok=True)

    def record(self, record: RunRecord) -> None:
        """Saves how the run has ended; logs a failure to do so."""
        # It is not raised: there may be a worse error to show.
        try:
            record.save(self.folder)
            self.push()
        except OSError as error:
            logger.error("that the run is %s cannot be written: %s", record.status, error)

    def push(self) -> None:
        """Puts the run's record, log, curves and report into the store; OSError where that cannot be written."""
        if self._uri is None or not self.folder.is_dir():
            return
        # Checkpoints are there already: the workers write them to the store.
        for path in self.folder.iterdir():
            if path.is_file() and path.name != LOCK_FILE:
                write_file(path.read_bytes(), join_uri(self._uri, path.name))
        report = self.folder / REPORT_FOLDER
        if report.is_dir():
            upload_folder(report, join_uri(self._uri, REPORT_FOLDER), last="report.html")
