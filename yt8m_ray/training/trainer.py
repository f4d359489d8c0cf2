"""fit(config) -> FitResult on Ray Train. The only module that imports ray.train.

Lives here: resources, the splitting of data among workers, restarts, and the end of a run. What a worker does is in
`yt8m_ray.training.worker`.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
import torch

from yt8m_ray.config.document import ConfigError, flatten
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.dataset import (
    READ_CPUS,
    estimate_num_videos,
    expand_shards,
    read_dataset,
    root_cause,
    split_dataset,
)
from yt8m_ray.data.packed import Block, from_table
from yt8m_ray.data.position import Position
from yt8m_ray.data.vocabulary import Vocabulary
from yt8m_ray.tracking import Tracker, default_uri
from yt8m_ray.training.run_folder import (
    POSITION_FILE,
    RunRecord,
    Status,
    best_checkpoint,
    check_resume,
    is_finished,
    run_path,
    with_absolute_paths,
)
from yt8m_ray.training.worker import Metrics, Worker, WorkerPorts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The outcome of a run.

    Attributes:
        checkpoint: Folder of the best checkpoint by validation GAP.
        metrics: Its metrics.
        run_path: The run's folder.
        tracking_uri: Where MLflow has the run.
        mlflow_run_id: The run there.
    """

    checkpoint: Path
    metrics: dict[str, float]
    run_path: Path
    tracking_uri: str
    mlflow_run_id: str


LOG_FILE = "train.log"

_MLFLOW_STATUS: dict[Status, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


_LOSSES = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
)
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Socket closed", "remote process exited")
"""What gloo and NCCL say where the other end of a collective died."""


class WorkersLostError(RuntimeError):
    """Workers died more often than `scaling.max_failures` allows."""


def fit(config: TrainConfig) -> FitResult:
    """Trains, or continues, the run that `config` describes, on the Ray cluster this process is connected to.

    Raises:
        ConfigError: the config cannot be run here.
        ValueError, OSError, FloatingPointError: the data or the optimisation failed; the message says where.
        WorkersLostError: too many workers died.
    """
    config = with_absolute_paths(config)
    folder = run_path(config)
    shards = {"train": expand_shards(config.data.train, key="data.train")}
    if config.data.validation is not None:
        shards["validation"] = expand_shards(config.data.validation, key="data.validation")
    check_resume(config, shards["train"])
    if is_finished(config):
        return _finished(config, folder)
    _check_vocabulary(config)
    scaling = _scaling(config)
    num_videos = estimate_num_videos(shards["train"], config.data.read_options)
    tracker = _start_tracking(config, folder)
    status: Status = "failed"
    try:
        payload = {
            "config": config.model_dump(mode="json"),
            "run_path": str(folder),
            "num_videos": num_videos,
            "shards": shards,
            "tracking": (tracker.uri, tracker.run_id),
        }
        _fit_with_restarts(config, folder, scaling, shards, payload)
        checkpoint, metrics = best_checkpoint(folder)
        tracker.log_artifacts(checkpoint, artifact_path="checkpoint")
        logger.info("best checkpoint: GAP %.4f, %s", metrics.get("validation/gap", math.nan), checkpoint)
        status = "finished"
    except (KeyboardInterrupt, SystemExit):
        status = "stopped"
        raise
    finally:
        RunRecord(status, tracker.run_id).save(folder)
        tracker.finish(_MLFLOW_STATUS[status])
    return FitResult(checkpoint, metrics, folder, tracker.uri, tracker.run_id)


def _finished(config: TrainConfig, folder: Path) -> FitResult:
    """Returns the outcome of a run that has nothing left to train, and says so."""
    record = RunRecord.load(folder)
    checkpoint, metrics = best_checkpoint(folder)
    logger.warning(
        "run %s is finished already, nothing was trained; raise train.num_epochs to continue it, or choose another "
        "run.name. Its best checkpoint: GAP %.4f, %s",
        config.run.name,
        metrics.get("validation/gap", math.nan),
        checkpoint,
    )
    uri = config.tracking.uri or default_uri(config.output)
    return FitResult(checkpoint, metrics, folder, uri, record.mlflow_run_id if record else "")


def _fit_with_restarts(
    config: TrainConfig,
    folder: Path,
    scaling: ray.train.ScalingConfig,
    shards: dict[str, list[str]],
    payload: dict[str, Any],
) -> None:
    for attempt in range(config.scaling.max_failures + 1):
        trainer = ray.train.torch.TorchTrainer(
            _work,  # type: ignore[arg-type]  # its return value goes to the Result
            train_loop_config=payload,
            scaling_config=scaling,
            run_config=_ray_run_config(config, folder),
            datasets=_datasets(config, folder, shards),
            dataset_config=_SplitAll(),
        )
        try:
            _follow(trainer.fit, folder / LOG_FILE)
        except ray.train.TrainingFailedError as error:
            reason = _final_error(error)
            if reason is not None:
                raise reason from None
            if attempt == config.scaling.max_failures:
                raise WorkersLostError(f"{attempt + 1} times a worker was lost, last: {_brief(error)}") from None
            logger.warning("a worker was lost; starting again from the last checkpoint: %s", _brief(error))
        else:
            return


def _ray_run_config(config: TrainConfig, folder: Path) -> ray.train.RunConfig:
    return ray.train.RunConfig(
        name=folder.name,
        storage_path=str(folder.parent),
        # Ray would also restart after an error in the data or the code, which no restart mends.
        failure_config=ray.train.FailureConfig(max_failures=0),
        logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=config.checkpoint.num_to_keep, checkpoint_score_attribute="score"
        ),
    )


def _datasets(config: TrainConfig, folder: Path, shards: dict[str, list[str]]) -> dict[str, Any]:
    spec, options = config.data.spec, config.data.read_options
    position_path = str(folder / POSITION_FILE)
    if not (folder / POSITION_FILE).exists():
        Position().save(position_path)  # Ray also asks for read tasks when a dataset is made
    datasets: dict[str, Any] = {
        "train": read_dataset(shards["train"], spec, options, shuffle_seed=config.run.seed, position_path=position_path)
    }
    if "validation" in shards:
        datasets["validation"] = read_dataset(shards["validation"], spec, options)
    return datasets


def _work(payload: dict[str, Any]) -> Metrics:
    """The function that Ray Train runs in each worker."""
    # A process of its own, which jobs/ did not configure; the driver passes the file's lines on.
    package_logger = logging.getLogger("yt8m_ray")
    package_logger.addHandler(logging.FileHandler(Path(payload["run_path"]) / LOG_FILE))
    package_logger.setLevel(logging.INFO)
    config = TrainConfig.model_validate(payload["config"])
    torch.set_num_threads(max(1, int(float(os.environ.get("OMP_NUM_THREADS", "1")))))
    is_first = ray.train.get_context().get_world_rank() == 0
    tracker = Tracker(*payload["tracking"]) if is_first else None
    spec = config.data.spec

    def read(split: str) -> Iterator[Block]:
        tables = ray.train.get_dataset_shard(split).iter_batches(batch_size=None, batch_format="pyarrow")
        return (from_table(table, spec) for table in tables)

    def report(metrics: Metrics, path: Path | None, name: str) -> None:
        checkpoint = None if path is None else ray.train.Checkpoint.from_directory(path)
        # Checkpoints inside an epoch carry no GAP; they rank below all that do.
        scored = {**metrics, "score": metrics.get("validation/gap", -1.0)}
        ray.train.report(scored, checkpoint=checkpoint, checkpoint_dir_name=name)

    def log(metrics: Metrics, step: int) -> None:
        if tracker is not None:
            tracker.log_metrics(metrics, step=step)

    worker = Worker(
        config,
        Path(payload["run_path"]),
        num_videos=payload["num_videos"],
        shards=payload["shards"],
        device=ray.train.torch.get_device(),
        ports=WorkerPorts(read, report, log, run_id=payload["tracking"][1]),
    )
    return worker.run()


class _SplitAll(ray.train.DataConfig):
    """Splits every dataset without dropping rows; Ray's own way drops the remainder to make the parts equal."""

    def configure(
        self,
        datasets: dict[str, Any],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **_: Any,
    ) -> list[dict[str, Any]]:
        splits = {name: split_dataset(dataset, world_size) for name, dataset in datasets.items()}
        return [{name: parts[rank] for name, parts in splits.items()} for rank in range(world_size)]


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    """Returns the workers' resources; ConfigError with the numbers where they and a reader cannot fit the cluster."""
    wanted = config.scaling
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    use_gpu = gpus >= wanted.num_workers if wanted.use_gpu is None else wanted.use_gpu
    if use_gpu and gpus < wanted.num_workers:
        raise ConfigError(f"scaling.num_workers: {wanted.num_workers} need a GPU each, the cluster has {gpus:g}")
    left = cpus - 2 * READ_CPUS
    each = wanted.cpus_per_worker or min(1.0, left / wanted.num_workers)
    if config.train.batch_size < wanted.num_workers:
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} videos are too few for {wanted.num_workers} workers"
        )
    if each <= 0.01 or each * wanted.num_workers > cpus - READ_CPUS:
        raise ConfigError(
            f"scaling: {wanted.num_workers} workers of {each:g} CPUs and a reader of {READ_CPUS} do not fit the "
            f"cluster's {cpus:g} logical CPUs; lower scaling.num_workers or scaling.cpus_per_worker"
        )
    resources = {"CPU": each, **({"GPU": 1.0} if use_gpu else {})}
    return ray.train.ScalingConfig(num_workers=wanted.num_workers, use_gpu=use_gpu, resources_per_worker=resources)


def _check_vocabulary(config: TrainConfig) -> None:
    path = config.data.vocabulary
    if path is not None and len(Vocabulary.load(path)) != config.data.num_classes:
        found = len(Vocabulary.load(path))
        raise ConfigError(
            f"data.vocabulary: {path} names {found} classes, data.num_classes is {config.data.num_classes}"
        )


def _start_tracking(config: TrainConfig, folder: Path) -> Tracker:
    uri = config.tracking.uri or default_uri(config.output)
    record = RunRecord.load(folder)
    tracker = Tracker.resume(uri, record.mlflow_run_id) if record else None
    if tracker is None:
        tracker = Tracker.start(
            uri,
            experiment=config.tracking.experiment,
            run_name=config.run.name,
            params=flatten(config),
            artifact_path=folder.parent / "mlartifacts",
        )
    logger.info("MLflow: run %s in %s", tracker.run_id, uri)
    folder.mkdir(parents=True, exist_ok=True)
    RunRecord("running", tracker.run_id).save(folder)
    return tracker


def _follow(call: Callable[[], object], log_path: Path) -> None:
    """Runs `call` beside the main thread and logs the lines that workers add to `log_path` meanwhile.

    The main thread stays free for Ctrl-C; Ray's own handler, set where `fit` runs in it, would end with status 0.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failure.append(error)

    log_path.touch()
    thread = threading.Thread(target=run, daemon=True)
    with log_path.open(encoding="utf-8") as lines:
        lines.seek(0, os.SEEK_END)
        thread.start()
        while thread.is_alive():
            thread.join(timeout=0.2)
            for line in lines:
                logger.info("%s", line.rstrip())
    if failure:
        raise failure[0]


def _final_error(error: ray.train.TrainingFailedError) -> BaseException | None:
    """Returns the error to show where a restart would not help, or None where a worker or node was lost."""
    causes = list(getattr(error, "worker_failures", {}).values())
    if any(_is_loss(cause) for cause in causes):
        return None
    for cause in causes or [error]:
        cause = root_cause(cause)
        if isinstance(cause, ValueError | OSError | FloatingPointError):
            return cause
    logger.error("%s", error)  # not for a user to mend: with the worker's traceback
    return causes[0] if causes else error


def _is_loss(cause: BaseException) -> bool:
    """Returns whether a process or node is gone, by its own absence or by what the others say of it."""
    is_gone = isinstance(cause, _LOSSES) or "HealthCheck" in type(cause).__name__
    return is_gone or (isinstance(cause, RuntimeError) and any(text in str(cause) for text in _LOST_PEER))


def _brief(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1][:300]
