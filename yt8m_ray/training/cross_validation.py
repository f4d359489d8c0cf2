"""All folds of a run, in parallel on the cluster, and what each predicts of the videos that it has not seen."""

from __future__ import annotations

import contextlib
import functools
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yt8m_ray.artifacts.folder_manifest import folder_version
from yt8m_ray.cluster import READ_CPUS, cluster_cpus, map_tasks
from yt8m_ray.config.document import override
from yt8m_ray.config.train import TrainConfig, with_absolute_paths
from yt8m_ray.errors import ConfigError
from yt8m_ray.evaluation import Evaluation
from yt8m_ray.inference.batch.evaluate import evaluation_of
from yt8m_ray.inference.batch.predict import predict_shards
from yt8m_ray.inference.evaluation_config import evaluation_config
from yt8m_ray.inference.predictions.writer import join_submissions
from yt8m_ray.training.driver.interruptible import STOP_TIMEOUT_S
from yt8m_ray.training.driver.trainer import fit
from yt8m_ray.training.run.inputs import prepare_inputs, splits_of
from yt8m_ray.training.run.log_files import lines_passed_on, logging_to

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "out_of_fold.parquet"
LOG_FILE = "folds.log"

# A fold's own process waits for the workers that it starts.
_TASK_CPUS = 0.01
# Interrupted folds write their last checkpoints.
_GRACE_S = STOP_TIMEOUT_S + 15.0


@dataclass(frozen=True)
class FoldResult:
    """The outcome of a fold: either `error`, or the rest."""

    fold: int
    run_name: str
    error: str | None = None
    checkpoint: Path | None = None  # the best one
    predictions: Path | None = None  # of the videos held out, a Parquet file
    evaluation: Evaluation | None = None


def folds_of(config: TrainConfig) -> list[TrainConfig]:
    """Returns the runs NAME-fold0 and so on of `data.folds`, whatever `data.fold` is.

    ConfigError where there are no folds, or no local folder for what they predict; other errors as in `prepare_inputs`.
    """
    config = with_absolute_paths(config)
    if config.data.folds is None:
        raise ConfigError("data.folds: how many folds? expected at least 2, found null")
    if "://" in config.output:
        raise ConfigError(f"output: cross-validation keeps its predictions in a local folder, found {config.output}")
    # What is wrong with the shards is wrong in all folds.
    prepare_inputs(config, splits_of(config.data))
    name = config.run.name
    return [
        override(config, {"run.name": f"{name}-fold{fold}", "data.fold": fold}) for fold in range(config.data.folds)
    ]


def cross_validate(folds: Sequence[TrainConfig], *, num_parallel: int | None = None) -> dict[str, Any]:
    """Trains the runs that `folds_of` returned; `num_parallel` None takes as many at once as the cluster has CPUs for.

    A fold that fails does not stop the others. The same call continues: finished folds are not trained again.

    Returns:
        folds: The `fold`, `run`, `checkpoint`, `predictions` and metrics of each, or its `error`.
        mean_gap, gap_standard_deviation: Over the folds that did not fail.
        out_of_fold: Metrics over the predictions of all those together.
        predictions: The file of all of them; None where a fold failed.
        num_failed: Folds that failed.
    """
    name = folds[0].run.name.removesuffix("-fold0")
    folder = Path(folds[0].output) / f"{name}-folds"
    folder.mkdir(parents=True, exist_ok=True)
    num_parallel = num_parallel or _most_at_once(folds[0])
    logger.info("%d folds, %d at once; predictions in %s", len(folds), num_parallel, folder)

    def failed(fold: int, error: BaseException) -> FoldResult:
        return FoldResult(fold, folds[fold].run.name, error=f"{type(error).__name__}: {error}")

    results: list[FoldResult] = []
    run = functools.partial(_run_fold, folder=folder)
    tasks = map_tasks(run, folds, num_workers=num_parallel, num_cpus=_TASK_CPUS, on_error=failed, grace_s=_GRACE_S)
    with lines_passed_on(folder / LOG_FILE), contextlib.closing(tasks):
        for _, result in tasks:
            results.append(result)
            if result.error is not None:
                logger.error("fold %d failed: %s", result.fold, result.error)
    return _report_of(sorted(results, key=lambda result: result.fold), folder)


def _most_at_once(config: TrainConfig) -> int:
    scaling = config.scaling
    each = scaling.most_workers * (scaling.cpus_per_worker or 1.0) + 2 * READ_CPUS
    return max(int(cluster_cpus() / each), 1)


def _run_fold(config: TrainConfig, *, folder: Path) -> FoldResult:
    # In a process of its own: its log lines reach the driver through a file.
    with logging_to(folder / LOG_FILE, prefix=f"fold {config.data.fold}: "):
        checkpoint = fit(config).checkpoint
        held_out = splits_of(config.data)["validation"]
        # The hash of the checkpoint is in the name: a run that was continued, or made again, predicts again.
        predictions = folder / f"fold{config.data.fold}-{checkpoint.name}-{folder_version(checkpoint)}.parquet"
        if not predictions.exists():
            predict_shards(checkpoint, held_out, str(predictions), on_corrupt=config.data.on_corrupt)
        evaluation, _ = evaluation_of(checkpoint, held_out, evaluation_config(checkpoint))
        return FoldResult(config.data.fold, config.run.name, None, checkpoint, predictions, evaluation)


def _report_of(results: list[FoldResult], folder: Path) -> dict[str, Any]:
    """Writes the joined predictions where all folds have theirs, and returns the document of `cross_validate`."""
    whole, folds, gaps = Evaluation(), [], []
    for result in results:
        entry: dict[str, Any] = {"fold": result.fold, "run": result.run_name}
        if result.evaluation is None:
            entry["error"] = result.error
        else:
            # The parts merge exactly: each video is held out once.
            whole.merge(result.evaluation)
            metrics = result.evaluation.compute()
            gaps.append(metrics["gap"])
            entry |= {"checkpoint": str(result.checkpoint), "predictions": str(result.predictions), **metrics}
        folds.append(entry)
    num_failed = len(results) - len(gaps)
    joined = folder / PREDICTIONS_FILE
    # Of an earlier call, which may have had other folds.
    joined.unlink(missing_ok=True)
    if not num_failed:
        join_submissions([str(result.predictions) for result in results], str(joined))
    return {
        "folds": folds,
        "mean_gap": statistics.fmean(gaps) if gaps else None,
        "gap_standard_deviation": statistics.stdev(gaps) if len(gaps) > 1 else None,
        "out_of_fold": whole.compute() if gaps else None,
        "predictions": None if num_failed else str(joined),
        "num_failed": num_failed,
    }
