"""What a run ends with: its result, its report, and its record in MLflow."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.artifacts.folder_manifest import STATE_FILE
from yt8m_ray.config.document import flatten
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.tracking.runs import Status as MLflowStatus
from yt8m_ray.tracking.runs import default_uri
from yt8m_ray.tracking.sender import RunFacts, Sender
from yt8m_ray.training.run.hooks import RunHooks
from yt8m_ray.training.run.run_folder import RunRecord, Status
from yt8m_ray.training.run.run_store import RunStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The outcome of a run: its best checkpoint by validation GAP, and where it is kept."""

    checkpoint: Path  # on this machine
    place: str  # the same for other machines: a URI where the run's output is one
    metrics: dict[str, float]  # of the checkpoint
    run_path: Path
    tracking_uri: str  # of the MLflow that has the run
    mlflow_run_id: str


MLFLOW_STATUS: dict[Status, MLflowStatus] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def add_report(folder: Path, tracker: Sender) -> None:
    """Writes the run's report; no failure of it fails the run."""
    # Late: its pictures take a second to import, which no worker needs.
    from yt8m_ray.training.run.run_report import write_report

    try:
        document = write_report(folder)
    except (OSError, ValueError) as error:
        logger.warning("train.report: %s", error)
    else:
        tracker.add_artifacts(document.parent, artifact_path="report")
        logger.info("report: %s", document)


def describe(place: str, metrics: dict[str, float]) -> str:
    """Returns which checkpoint a run ends with, and its GAP where there is a validation."""
    gap = metrics.get("validation/gap")
    return f"last checkpoint: {place}" if gap is None else f"best checkpoint: GAP {gap:.4f}, {place}"


def describe_stop(store: RunStore) -> str:
    """Returns where a run has stopped, and how to continue it."""
    # Workers have written to the store since the copy was made.
    try:
        store.pull()
    except OSError as error:
        return f"stopped; where, the store does not say: {error}"
    checkpoint = latest_checkpoint(store.folder)
    if checkpoint is None:
        return "stopped before the first checkpoint; the same command begins anew"
    state = read_tensors(checkpoint / STATE_FILE)
    epoch, step = int(state["position.epoch"]), int(state["progress.step"])
    place = store.place_of(checkpoint)
    return f"stopped in epoch {epoch + 1} behind step {step}; the same command continues there: {place}"


def start_tracking(config: TrainConfig, folder: Path, hooks: RunHooks) -> Sender:
    """Begins, or continues, to send what a run measures to MLflow."""
    sender = sender_of(config, folder, hooks)
    sender.start()
    folder.mkdir(parents=True, exist_ok=True)
    # At once: a start after a crash then continues in the same MLflow run.
    RunRecord("running", sender.run_id).save(folder)
    return sender


def sender_of(config: TrainConfig, folder: Path, hooks: RunHooks) -> Sender:
    """Returns the sender of a run, not started."""
    record = RunRecord.load(folder)
    facts = RunFacts(
        experiment=config.tracking.experiment,
        run_name=config.run.name,
        params=flatten(config),
        artifact_path=folder.parent / "mlartifacts",
        tags=hooks.tags,
    )
    uri = config.tracking.uri or default_uri(config.output)
    return Sender(uri, folder, facts, run_id=record.mlflow_run_id if record else "")
