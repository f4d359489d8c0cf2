"""The winner of a search: `best/config.yaml`, a train config, and `best/checkpoint`."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

from yt8m_ray.artifacts.checkpoint import adopt_checkpoint
from yt8m_ray.artifacts.checkpoint_folders import CHECKPOINT_PATTERN, load_config
from yt8m_ray.artifacts.folder_manifest import CheckpointError, folder_aside, read_manifest
from yt8m_ray.config.document import load_document, override, to_yaml
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.models import register_folder
from yt8m_ray.training.driver.trainer import fit
from yt8m_ray.training.run.outcome import FitResult
from yt8m_ray.tuning.records import TrialRecord, ranked
from yt8m_ray.tuning.trial import TRIALS_FOLDER, best_of_trial, trial_name

logger = logging.getLogger(__name__)

BEST_FOLDER = "best"
CONFIG_FILE, CHECKPOINT_FOLDER = "config.yaml", "checkpoint"


def write_best(folder: Path, config: TuneConfig, records: list[TrialRecord]) -> TrialRecord:
    """Writes `best/` and returns its trial, the best with an intact checkpoint; CheckpointError where none has one."""
    for record in ranked(records):
        try:
            checkpoint, _ = best_of_trial(folder, trial_name(record.number))
        except CheckpointError as error:
            logger.warning("trial %d is passed over: %s", record.number, error)
            continue
        _replace(folder / BEST_FOLDER, best_config(config, load_config(checkpoint)), checkpoint)
        return record
    raise CheckpointError(f"{folder}: no trial has ended with a score and a checkpoint{_causes(records)}")


def best_config(config: TuneConfig, trial: TrainConfig) -> TrainConfig:
    """Returns the config of a trial as a run of its own at full length, with the search's output, scaling and so on."""
    base = config.base.model_dump(mode="json")
    num_epochs = trial.train.num_epochs if "train.num_epochs" in config.tune.space else config.train.num_epochs
    changes = {
        **{key: base[key] for key in ("output", "scaling", "tracking", "checkpoint")},
        "run.name": f"{config.run.name}-{BEST_FOLDER}",
        "run.resume": base["run"]["resume"],
        "train.report": config.train.report,
        "train.num_epochs": num_epochs,
        **config.tune.retrain,
    }
    return override(trial, changes)


def retrain(folder: Path) -> FitResult:
    """Trains `best/config.yaml`, or continues its run, and replaces `best/checkpoint` with the run's best."""
    path = folder / BEST_FOLDER / CONFIG_FILE
    config = load_document(path, TrainConfig)
    logger.info("training the best configuration at full length: %s", config.run.name)
    result = fit(config)
    _replace(folder / BEST_FOLDER, config, result.checkpoint)
    return result


def register(folder: Path, uri: str, run_id: str, *, name: str, alias: str) -> str:
    """Registers `best/` in MLflow under an alias and returns the model's URI.

    Raises:
        ConfigError: MLflow does not have the search's run.
        TrackingError: MLflow fails.
    """
    manifest = read_manifest(folder / BEST_FOLDER / CHECKPOINT_FOLDER, kind="checkpoint")
    if not run_id:
        raise ConfigError(f"--register: MLflow at {uri} has no run of this search; is it up?")
    version = register_folder(
        uri, run_id, folder / BEST_FOLDER, name=name, alias=alias, tags={"step": str(manifest.get("step", ""))}
    )
    logger.info("registered as version %s of %s, alias %s", version, name, alias)
    return f"models:/{name}@{alias}"


def remove_checkpoints(folder: Path, records: list[TrialRecord], num_to_keep: int) -> None:
    """Removes the checkpoints of all trials but the best ones."""
    kept = {trial_name(record.number) for record in ranked(records)[:num_to_keep]}
    for run in (folder / TRIALS_FOLDER).glob("trial_*"):
        if run.name.partition(".")[0] not in kept:
            for checkpoint in run.glob(CHECKPOINT_PATTERN):
                shutil.rmtree(checkpoint, ignore_errors=True)


def _replace(best: Path, config: TrainConfig, checkpoint: Path) -> None:
    with folder_aside(best) as aside:
        (aside / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
        adopt_checkpoint(checkpoint, aside / CHECKPOINT_FOLDER, load_config(checkpoint))
        # A folder with content cannot be renamed over: the old one moves beside the new one, and goes with the rest.
        with contextlib.suppress(FileNotFoundError):
            best.rename(aside.with_name("old"))
        aside.rename(best)


def _causes(records: list[TrialRecord]) -> str:
    causes = list(dict.fromkeys(record.cause for record in records if record.cause))
    return f"; {len(records)} were begun: {'; '.join(causes[:3])}" if causes else ""
