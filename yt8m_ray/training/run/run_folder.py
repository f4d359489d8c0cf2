"""The folder of one run: what it holds, whether it can be continued, and which of its checkpoints is the best."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import filelock
import torch

from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint, load_config
from yt8m_ray.artifacts.folder_manifest import STATE_FILE, cache_folder
from yt8m_ray.config.train import TrainConfig, changes
from yt8m_ray.data.storage.folders import is_remote
from yt8m_ray.errors import ConfigError
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import read_document, replace_file
from yt8m_ray.training.run.log_files import TIME_FORMAT

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
LOCK_FILE = "run.lock"
LOG_FILE = "train.log"
REPORT_FOLDER = "report"
SHARDS_KEY = "shards.sha256"

# Sections that a continued run may change; a change is logged.
_FREE_TO_CHANGE = (
    *("output", "run", "tracking", "scaling", "checkpoint", "optimizer", "train", "data"),
    *("augmentation", "distillation", "ema"),
)
# Keys of those sections that it may not.
_FIXED = ("data.features", "data.num_classes", "data.max_frames", "data.normalize")

Status = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class RunRecord:
    """What a run leaves for the next start of the same name, in run.json."""

    status: Status  # `running` also where the process died
    mlflow_run_id: str  # the run that a continued one logs to

    def save(self, run_path: Path) -> None:
        """Writes the record aside and renames it."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        replace_file(run_path / RUN_FILE, lambda aside: aside.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, run_path: Path) -> RunRecord | None:
        """Returns the record of a run folder, or None where no run was started; ValueError where it is none."""
        path = run_path / RUN_FILE
        if not path.exists():
            return None
        try:
            return cls(**parse_json(read_document(path), where=str(path)))
        except TypeError as error:
            raise ValueError(f"{path}: not the record of a run: {error}") from None


def run_path(config: TrainConfig) -> Path:
    """Returns the absolute folder of the run; where its output is an object store, that of a copy on this machine."""
    # Runs of one name in two stores have two copies.
    if is_remote(config.output):
        return cache_folder() / "runs" / hashlib.sha256(config.output.encode()).hexdigest()[:16] / config.run.name
    return Path(config.output).absolute() / config.run.name


def append_log(folder: Path, lines: Iterable[str]) -> None:
    """Adds lines with the time to a run's log; a full disk is passed over, for they are on stderr too."""
    now = time.strftime(TIME_FORMAT)
    with contextlib.suppress(OSError), (folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.writelines(f"{now} {line}\n" for line in lines)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a run's folder to this process while the `with` block runs; ConfigError where another command has it.

    A folder that the block left empty is removed.
    """
    missing = [path for path in (folder, folder.parent) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(folder / LOCK_FILE).acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(f"run.name: another command is at work on {folder}; wait, or choose another name") from None
    try:
        with lock:
            yield
    finally:
        # `glob` finds nothing where the folder is gone.
        if missing and [path.name for path in folder.glob("*")] == [LOCK_FILE]:
            (folder / LOCK_FILE).unlink()
            for path in missing:
                # It may hold something else by now.
                with contextlib.suppress(OSError):
                    path.rmdir()


def wait_until_free(folder: Path, *, timeout_s: float) -> None:
    """Waits until no process is at work on a run's folder, or `timeout_s` are over."""
    # A run that was asked to stop has then written its last checkpoint.
    if folder.exists():
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / LOCK_FILE).acquire(timeout=timeout_s):
            pass


def shards_digest(shards: Sequence[str]) -> torch.Tensor:
    """Returns the SHA-256 of a list of shards, uint8 [32]."""
    # A position inside an epoch names shards by their numbers, which mean something in the same list alone.
    return torch.frombuffer(bytearray(hashlib.sha256("\n".join(shards).encode()).digest()), dtype=torch.uint8)


def check_resume(config: TrainConfig, train_shards: Sequence[str]) -> Path | None:
    """Returns the checkpoint that the run continues from, or None for a new run.

    ConfigError where `run.resume` forbids what the folder holds, or the model or its data differ from the checkpoint's.
    """
    folder = run_path(config)
    record, checkpoint = RunRecord.load(folder), latest_checkpoint(folder)
    if config.run.resume == "never" and (record is not None or checkpoint is not None):
        raise ConfigError(f"run.resume: never, but {folder} holds a run already; choose another run.name or output")
    if config.run.resume == "must" and checkpoint is None:
        raise ConfigError(f"run.resume: must, but {folder} holds no checkpoint to continue from")
    if checkpoint is not None:
        _check_changes(load_config(checkpoint), config, checkpoint)
        _check_shards(checkpoint, train_shards)
    return checkpoint


def is_finished(config: TrainConfig) -> bool:
    """Returns whether the run's last checkpoint is at the end that `config` sets, and was validated."""
    checkpoint = latest_checkpoint(run_path(config))
    if checkpoint is None:
        return False
    state = read_tensors(checkpoint / STATE_FILE)
    # Older checkpoints do not say so: they come after a validation.
    is_due = bool(state.get("progress.is_validation_due", False))
    return not is_due and config.train.is_reached(epoch=int(state["position.epoch"]), step=int(state["progress.step"]))


def _check_shards(checkpoint: Path, train_shards: Sequence[str]) -> None:
    state = read_tensors(checkpoint / STATE_FILE)
    # Between two epochs a run may change its shards.
    is_inside_epoch = len(state["position.shards"]) > 0
    if is_inside_epoch and not torch.equal(state[SHARDS_KEY], shards_digest(train_shards)):
        raise ConfigError(
            f"data.train: {checkpoint} is inside an epoch of other shards than the {len(train_shards)} given now; give "
            "those, or choose another run.name"
        )


def _check_changes(saved: TrainConfig, config: TrainConfig, checkpoint: Path) -> None:
    found = changes(saved, config)
    refused = [
        f"{key}: {old!r} in {checkpoint}, now {new!r}"
        for key, old, new in found
        if key.split(".")[0] not in _FREE_TO_CHANGE or key.startswith(_FIXED)
    ]
    if refused:
        refused.append("a continued run keeps its model; choose another run.name to train anew")
        raise ConfigError("\n".join(refused))
    # These change nothing that the run learns.
    for key, old, new in found:
        if not key.startswith(("output", "run.", "tracking.", "scaling.")):
            logger.warning("continued with a change: %s was %r, now %r", key, old, new)
