"""What folders of checkpoints say without torch: their configs, and which of a run's is the best and which the last."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from yt8m_ray.artifacts.folder_manifest import CONFIG_FILE, CheckpointError, NoSuchFolderError, read_manifest
from yt8m_ray.config.document import read_yaml, validate
from yt8m_ray.config.train import TrainConfig

logger = logging.getLogger(__name__)

CHECKPOINT_PATTERN = "epoch_*_step_*"


def checkpoint_name(*, epoch: int, step: int) -> str:
    """Returns the folder name of a checkpoint after `epoch` whole epochs and `step` steps."""
    # With zeros in front, so that names sort by progress.
    return f"epoch_{epoch:04d}_step_{step:09d}"


def score_of(metrics: Mapping[str, float]) -> float:
    """Returns what checkpoints are ranked by: the validation GAP, or -1 where there is none or no label."""
    gap = float(metrics.get("validation/gap", math.nan))
    return -1.0 if math.isnan(gap) else gap


def load_config(folder: str | Path) -> TrainConfig:
    """Returns the config that a checkpoint was trained with."""
    path = Path(folder) / CONFIG_FILE
    if not path.parent.is_dir():
        raise NoSuchFolderError(f"{folder}: no checkpoint: there is no such folder")
    if not path.exists():
        raise CheckpointError(f"{folder}: no checkpoint: {CONFIG_FILE} is missing")
    return validate(read_yaml(path), TrainConfig, where=str(path))


def best_checkpoint(folder: Path) -> tuple[Path, dict[str, float]]:
    """Returns (checkpoint with the highest validation GAP, its metrics); the last one where none was validated.

    CheckpointError where the folder holds no intact checkpoint.
    """
    intact: list[tuple[Path, dict[str, float]]] = []
    for path in folder.glob(CHECKPOINT_PATTERN):
        try:
            manifest = read_manifest(path, kind="checkpoint")
        except CheckpointError as error:
            logger.warning("passed over: %s", error)
        else:
            intact.append((path, cast(dict[str, float], manifest["metrics"])))
    if not intact:
        raise CheckpointError(f"{folder}: no intact checkpoint")
    # Names sort by progress: of equal scores the later one wins.
    return max(intact, key=lambda found: (score_of(found[1]), found[0].name))


def latest_checkpoint(run_path: str | Path) -> Path | None:
    """Returns the intact checkpoint of a run folder that is furthest on, or None."""
    for folder in sorted(Path(run_path).glob(CHECKPOINT_PATTERN), reverse=True):
        try:
            read_manifest(folder, kind="checkpoint")
        except CheckpointError:  # a write was cut short, or another process removes it
            continue
        return folder
    return None
