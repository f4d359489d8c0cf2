"""What a run came to, as MLflow's page shows it: the best figures, a description, and the model that they are of."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, RunTag

from yt8m_ray.tracking.runs import MAX_TAG_LENGTH, Tracker, open_client, tracking_errors

NOTE_TAG = "mlflow.note.content"
# Ahead of all other groups of charts, which the page sorts by their names.
BEST_GROUP = "best/"
# Of a model, where its checkpoint is.
CHECKPOINT_TAG = "yt8m_ray.checkpoint"
# Of a model, the short hash of its checkpoint's contents, by which an evaluation finds it.
VERSION_TAG = "yt8m_ray.version"

_EXTERNAL_TAG = "mlflow.model.isExternal"
# What the name of a model may not have.
_NOT_IN_MODEL_NAMES = re.compile(r"""[/:.%"']""")


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    metrics: dict[str, float]  # of the best checkpoint, by their names without the split
    step: int
    note: str  # Markdown
    dataset: tuple[str, str] | None = None  # name and digest of what the figures were measured on
    # The folder or URI of the checkpoint that is the run's model; empty where it does not stay.
    checkpoint: str = ""
    model_name: str = ""
    model_tags: dict[str, str] = field(default_factory=dict)
    model_params: dict[str, str] = field(default_factory=dict)
    # The same each time that it is sent, so that MLflow keeps one of each value.
    time_ms: int = field(default_factory=lambda: int(time.time() * 1000))


def describe_in_table(headline: str, facts: Mapping[str, object]) -> str:
    """Returns a description in Markdown: a line, and a table of facts."""
    rows = [f"| {name} | {_in_cell(str(value))} |" for name, value in facts.items()]
    return "\n".join([headline, "", "| | |", "|---|---|", *rows])


def log_outcome(tracker: Tracker, outcome: Outcome, *, model_id: str = "", note_before: str = "") -> None:
    """Logs the figures, of the run and of its model, and the description unless somebody has changed `note_before`."""
    with tracking_errors(tracker.uri):
        client = open_client(tracker.uri)
        metrics = measured(
            {BEST_GROUP + name: value for name, value in outcome.metrics.items()},
            step=outcome.step,
            time_ms=outcome.time_ms,
            model_id=model_id,
            dataset=outcome.dataset,
        )
        note = client.get_run(tracker.run_id).data.tags.get(NOTE_TAG, "")
        tags = [RunTag(NOTE_TAG, cut(outcome.note))] if note in {"", cut(note_before)} else []
        client.log_batch(tracker.run_id, metrics=metrics, tags=tags)


def log_checkpoint_model(tracker: Tracker, outcome: Outcome) -> str:
    """Makes a model of the run that stays where it is, in `outcome.checkpoint`; returns its id."""
    with tracking_errors(tracker.uri):
        client = open_client(tracker.uri)
        # As `mlflow.create_external_model` does, whose empty MLmodel costs an import of pandas.
        model = client.create_logged_model(
            client.get_run(tracker.run_id).info.experiment_id,
            _NOT_IN_MODEL_NAMES.sub("-", outcome.model_name),
            source_run_id=tracker.run_id,
            tags={_EXTERNAL_TAG: "true", CHECKPOINT_TAG: outcome.checkpoint, **outcome.model_tags},
            params=outcome.model_params,
        )
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        client.log_outputs(tracker.run_id, [LoggedModelOutput(model.model_id, step=outcome.step)])
    return str(model.model_id)


def measured(
    metrics: Mapping[str, float], *, step: int, time_ms: int, model_id: str, dataset: Sequence[str] | None
) -> list[Metric]:
    """Returns finite values as those of a run, of its model where it has one, and of a dataset's name and digest."""
    name, digest = dataset or (None, None)
    return [
        Metric(key, value, time_ms, step, model_id=model_id or None, dataset_name=name, dataset_digest=digest)
        for key, value in metrics.items()
        if math.isfinite(value)
    ]


def cut(note: str) -> str:
    """Returns as much of a description as MLflow takes."""
    return note[:MAX_TAG_LENGTH]


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
