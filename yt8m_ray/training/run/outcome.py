"""What a run ends with: its result, its report, and its record in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.artifacts.folder_manifest import CONFIG_FILE, STATE_FILE, folder_version, read_manifest
from yt8m_ray.config.document import flatten
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.tracking.datasets import Context, ShardSet, describe_shards
from yt8m_ray.tracking.outcome import NOTE_TAG, VERSION_TAG, Outcome, describe_in_table
from yt8m_ray.tracking.runs import Status as MLflowStatus
from yt8m_ray.tracking.runs import default_uri
from yt8m_ray.tracking.sender import RunFacts, Sender
from yt8m_ray.tracking.source import source_tags
from yt8m_ray.training.run.hooks import RunHooks
from yt8m_ray.training.run.inputs import RunInputs
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


# What the page of a run shows of its best checkpoint, by the metric's name.
FIGURES = {"gap": "GAP", "hit_at_1": "Hit@1", "perr": "PERR", "mean_ap": "mAP", "loss": "loss"}

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


def start_tracking(config: TrainConfig, folder: Path, inputs: RunInputs, hooks: RunHooks) -> Sender:
    """Begins, or continues, to send what a run measures to MLflow."""
    sender = sender_of(config, folder, hooks, inputs)
    sender.start()
    folder.mkdir(parents=True, exist_ok=True)
    # At once: a start after a crash then continues in the same MLflow run.
    RunRecord("running", sender.run_id).save(folder)
    return sender


def sender_of(config: TrainConfig, folder: Path, hooks: RunHooks, inputs: RunInputs | None = None) -> Sender:
    """Returns the sender of a run, not started; `inputs` are for a run that MLflow may not have."""
    record = RunRecord.load(folder)
    datasets = () if inputs is None else describe_inputs(config, inputs)
    tags = {**source_tags("training"), **hooks.tags}
    headline = f"Model {config.model.name}, {_epochs(config)}."
    note = describe_in_table(headline, begun_facts(config, datasets, tags))
    facts = RunFacts(
        experiment=config.tracking.experiment,
        run_name=config.run.name,
        params=flatten(config),
        artifact_path=folder.parent / "mlartifacts",
        tags={**tags, NOTE_TAG: note},
        datasets=datasets,
    )
    uri = config.tracking.uri or default_uri(config.output)
    return Sender(uri, folder, facts, run_id=record.mlflow_run_id if record else "")


def outcome_of(
    config: TrainConfig, facts: RunFacts, checkpoint: Path, place: str, metrics: Mapping[str, float], *, is_kept: bool
) -> Outcome:
    """Returns what a run came to: its best checkpoint, which other machines see at `place`.

    Where `is_kept` the checkpoint is there to stay, and becomes the run's model.
    """
    found = {name: metrics[f"validation/{name}"] for name in FIGURES if f"validation/{name}" in metrics}
    step = cast(int, read_manifest(checkpoint, kind="checkpoint").get("step", 0))
    gap = f"GAP {found['gap']:.4f}: " if "gap" in found else ""
    epoch = f"epoch {metrics['epoch']:.0f}, step {step}" if "epoch" in metrics else f"step {step}"
    begun = begun_facts(config, facts.datasets, facts.tags)
    figures = {FIGURES[name]: f"{value:.4f}" for name, value in found.items()}
    ended = {"best": epoch, **figures, "checkpoint": f"`{place}`", "config": f"`{place}/{CONFIG_FILE}`"}
    return Outcome(
        found,
        step,
        describe_in_table(f"{gap}model {config.model.name}, {_epochs(config)}.", begun | ended),
        checkpoint=place if is_kept else "",
        dataset=next(((data.name, data.digest) for data in facts.datasets if data.context == "validation"), None),
        model_name=config.run.name,
        model_tags={VERSION_TAG: folder_version(checkpoint)},
        model_params={key: str(value) for key, value in flatten(config).items() if key.startswith("model.")},
    )


def describe_inputs(config: TrainConfig, inputs: RunInputs) -> tuple[ShardSet, ...]:
    """Returns what a run reads, as MLflow shows it."""
    contexts: dict[str, Context] = {"train": "training", "validation": "validation"}
    return tuple(
        describe_shards(shards, contexts[split], config.data.spec, inputs.manifest)
        for split, shards in inputs.shards.items()
    )


def begun_facts(config: TrainConfig, datasets: Sequence[ShardSet], tags: Mapping[str, str]) -> dict[str, str]:
    """Returns what a description says from the start on."""
    shards: dict[str, str] = {
        data.context: f"{data.name}, {data.counts['num_shards']} shards ({data.digest})" for data in datasets
    }
    return {"command": f"`{tags['mlflow.source.name']}`", "model": config.model.name, **shards}


def _epochs(config: TrainConfig) -> str:
    num = config.train.num_epochs
    return "1 epoch" if num == 1 else f"{num} epochs"
