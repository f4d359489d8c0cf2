"""fit(config) -> FitResult on Ray Train. The only module that imports ray.train.

Lives here: resources, the splitting of data among workers, restarts, and the end of a run. What a worker does is in
`yt8m_ray.training.worker`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from yt8m_ray.config.data import DataConfig
from yt8m_ray.config.document import ConfigError, flatten
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.dataset import (
    READ_CPUS,
    estimate_num_videos,
    expand_shards,
    read_dataset,
    split_dataset,
)
from yt8m_ray.data.folds import bootstrap, split_folds
from yt8m_ray.data.manifest import Manifest, check_shards, load_manifest
from yt8m_ray.data.packed import Block, from_table
from yt8m_ray.data.position import Position
from yt8m_ray.data.vocabulary import Vocabulary
from yt8m_ray.losses import build_loss
from yt8m_ray.tracking import Status as MLflowStatus
from yt8m_ray.tracking import default_uri
from yt8m_ray.training.failures import final_error, last_line
from yt8m_ray.training.follow import follow
from yt8m_ray.training.history import History
from yt8m_ray.training.profiling import TRACE_FILE
from yt8m_ray.training.run_folder import (
    POSITION_FILE,
    RunRecord,
    Status,
    best_checkpoint,
    check_resume,
    is_finished,
    locked,
    remove_checkpoints,
    run_path,
    with_absolute_paths,
)
from yt8m_ray.training.sender import RunFacts, Sender, send_the_rest
from yt8m_ray.training.teaching import check_paths
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
        mlflow_run_id: The run there; empty where MLflow never answered.
    """

    checkpoint: Path
    metrics: dict[str, float]
    run_path: Path
    tracking_uri: str
    mlflow_run_id: str


LOG_FILE = "train.log"

_MLFLOW_STATUS: dict[Status, MLflowStatus] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


class WorkersLostError(RuntimeError):
    """Workers died more often than `scaling.max_failures` allows."""


def fit(config: TrainConfig) -> FitResult:
    """Trains, or continues, the run that `config` describes, on the Ray cluster this process is connected to.

    Raises:
        ConfigError: the config cannot be run here, or another command is at work on the same run.
        ValueError, OSError, FloatingPointError: the data or the optimisation failed; the message says where.
        WorkersLostError: too many workers died.
    """
    config = with_absolute_paths(config)
    folder = run_path(config)
    shards = splits_of(config.data)
    check_resume(config, shards["train"])
    if is_finished(config):
        return _finished(config, folder)
    _check_vocabulary(config)
    check_paths(config, shards["train"])
    _check_loss(config)
    scaling = _scaling(config)
    manifest = _load_manifest(config, shards)
    if manifest is None:
        num_videos = estimate_num_videos(shards["train"], config.data.read_options)
    else:
        num_videos = manifest.num_videos_of(shards["train"])
    with locked(folder):
        return _run(config, folder, scaling, shards, manifest, num_videos)


def _run(
    config: TrainConfig,
    folder: Path,
    scaling: ray.train.ScalingConfig,
    shards: dict[str, list[str]],
    manifest: Manifest | None,
    num_videos: float,
) -> FitResult:
    """Trains, and says in MLflow and in the run's folder how it ended."""
    tracker = _start_tracking(config, folder)
    status: Status = "failed"
    try:
        payload = {
            "config": config.model_dump(mode="json"),
            "run_path": str(folder),
            "num_videos": num_videos,
            "shards": shards,
            "num_records": {split: manifest.num_records_of(shards[split]) for split in shards} if manifest else {},
            "mlflow_run_id": tracker.run_id,
        }
        _fit_with_restarts(config, folder, scaling, shards, payload)
        checkpoint, metrics = best_checkpoint(folder)
        tracker.add_artifacts(checkpoint, artifact_path="checkpoint")
        if (folder / TRACE_FILE).exists():
            tracker.add_artifacts(folder / TRACE_FILE)
        if config.train.report:
            _report(folder, tracker)
        logger.info("%s", _describe(checkpoint, metrics))
        status = "finished"
    except (KeyboardInterrupt, SystemExit):
        status = "stopped"
        raise
    finally:
        RunRecord(status, tracker.run_id).save(folder)
        tracker.close(_MLFLOW_STATUS[status])
    return FitResult(checkpoint, metrics, folder, tracker.uri, tracker.run_id)


def _report(folder: Path, tracker: Sender) -> None:
    """Writes the run's report; a run does not fail by it."""
    from yt8m_ray.training.report import write_report  # its pictures take a second to import, which no worker needs

    try:
        document = write_report(folder)
    except OSError as error:
        logger.warning("train.report: %s", error)
    else:
        tracker.add_artifacts(document.parent, artifact_path="report")
        logger.info("report: %s", document)


def splits_of(data: DataConfig) -> dict[str, list[str]]:
    """Returns the shards of `train` and, where there is one, of `validation`; no shard is in both.

    Those of `train` may be there several times, or not at all, where `data.bagging` draws them.
    """
    shards = {"train": expand_shards(data.train, key="data.train")}
    if data.folds is not None:
        shards["train"], shards["validation"] = split_folds(
            shards["train"], num_folds=data.folds, fold=data.fold, seed=data.split_seed
        )
    elif data.validation is not None:
        shards["validation"] = expand_shards(data.validation, key="data.validation")
    both = sorted(set(shards["train"]) & set(shards.get("validation", ())))
    if both:
        raise ConfigError(f"data.validation: {len(both)} of its shards are in data.train too, the first is {both[0]}")
    if data.bagging is not None:
        shards["train"] = bootstrap(shards["train"], seed=data.bagging)
    return shards


def _describe(checkpoint: Path, metrics: dict[str, float]) -> str:
    """Returns which checkpoint a run ends with, and its GAP where there is a validation."""
    gap = metrics.get("validation/gap")
    return f"last checkpoint: {checkpoint}" if gap is None else f"best checkpoint: GAP {gap:.4f}, {checkpoint}"


def _finished(config: TrainConfig, folder: Path) -> FitResult:
    """Returns the outcome of a run that has nothing left to train, and says so."""
    record = RunRecord.load(folder)
    checkpoint, metrics = best_checkpoint(folder)
    logger.warning(
        "run %s is finished already, nothing was trained; raise train.num_epochs to continue it, or choose another "
        "run.name. Its %s",
        config.run.name,
        _describe(checkpoint, metrics),
    )
    uri = config.tracking.uri or default_uri(config.output)
    run_id = send_the_rest(uri, folder, _run_facts(config, folder), run_id=record.mlflow_run_id if record else "")
    return FitResult(checkpoint, metrics, folder, uri, run_id)


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
            result = follow(trainer.fit, folder / LOG_FILE)
        except ray.train.TrainingFailedError as error:
            reason = final_error(error)
            if reason is not None:
                raise reason from None
            if attempt == config.scaling.max_failures:
                raise WorkersLostError(f"{attempt + 1} times a worker was lost, last: {last_line(error)}") from None
            logger.warning("a worker was lost; starting again from the last checkpoint: %s", last_line(error))
        else:
            # Ray forgets checkpoints that it had not booked when a driver was killed; the run's end is a safe moment.
            kept = [checkpoint for checkpoint, _ in result.best_checkpoints or []]
            if result.checkpoint is not None:
                remove_checkpoints(folder, keep=[Path(one.path).name for one in (*kept, result.checkpoint)])
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
    data = config.data
    read = functools.partial(
        read_dataset,
        spec=data.spec,
        options=data.read_options,
        num_parts=config.scaling.most_workers,
        cache=data.cache,
    )
    position_path = str(folder / POSITION_FILE)
    if not (folder / POSITION_FILE).exists():
        Position().save(position_path)  # Ray also asks for read tasks when a dataset is made
    datasets: dict[str, Any] = {
        "train": read(shards["train"], shuffle_seed=config.run.seed, position_path=position_path)
    }
    if "validation" in shards:
        datasets["validation"] = read(shards["validation"])
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
    history = History(Path(payload["run_path"])) if is_first else None
    spec = config.data.spec

    def read(split: str) -> Iterator[Block]:
        tables = ray.train.get_dataset_shard(split).iter_batches(batch_size=None, batch_format="pyarrow")
        return (from_table(table, spec) for table in tables)

    def report(metrics: Metrics, path: Path | None, name: str) -> None:
        checkpoint = None if path is None else ray.train.Checkpoint.from_directory(path)
        # Checkpoints inside an epoch carry no GAP; they rank below all that do.
        scored = {**metrics, "score": metrics.get("validation/gap", -1.0)}
        ray.train.report(scored, checkpoint=checkpoint, checkpoint_dir_name=name)

    def log(metrics: Metrics, step: int, progress: Metrics) -> None:
        if history is not None:
            history.append(metrics, step, progress)

    worker = Worker(
        config,
        Path(payload["run_path"]),
        num_videos=payload["num_videos"],
        shards=payload["shards"],
        num_records=payload["num_records"],
        device=ray.train.torch.get_device(),
        ports=WorkerPorts(read, report, log, run_id=payload["mlflow_run_id"]),
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
    use_gpu = gpus >= wanted.most_workers if wanted.use_gpu is None else wanted.use_gpu
    if use_gpu and gpus < wanted.most_workers:
        raise ConfigError(f"scaling.num_workers: {wanted.most_workers} need a GPU each, the cluster has {gpus:g}")
    left = cpus - 2 * READ_CPUS
    each = wanted.cpus_per_worker or min(1.0, left / wanted.most_workers)
    if config.train.batch_size < wanted.most_workers:
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} videos are too few for {wanted.most_workers} workers"
        )
    if each <= 0.01 or each * wanted.most_workers > cpus - READ_CPUS:
        raise ConfigError(
            f"scaling: {wanted.most_workers} workers of {each:g} CPUs and a reader of {READ_CPUS} do not fit the "
            f"cluster's {cpus:g} logical CPUs; lower scaling.num_workers or scaling.cpus_per_worker"
        )
    resources = {"CPU": each, **({"GPU": 1.0} if use_gpu else {})}
    return ray.train.ScalingConfig(num_workers=wanted.most_workers, use_gpu=use_gpu, resources_per_worker=resources)


def _check_vocabulary(config: TrainConfig) -> None:
    path = config.data.vocabulary
    if path is not None and len(Vocabulary.load(path)) != config.data.num_classes:
        found = len(Vocabulary.load(path))
        raise ConfigError(
            f"data.vocabulary: {path} names {found} classes, data.num_classes is {config.data.num_classes}"
        )


def _check_loss(config: TrainConfig) -> None:
    try:
        build_loss(config.loss).check_num_classes(config.data.num_classes)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from None


def _load_manifest(config: TrainConfig, shards: dict[str, list[str]]) -> Manifest | None:
    """Returns the manifest of the shards, all of which it has and which have its sizes; None where none is given."""
    path = config.data.manifest
    if path is None:
        return None
    try:
        manifest = load_manifest(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"data.manifest: {error}") from None
    check_shards(manifest, [shard for split in shards.values() for shard in split])
    return manifest


def _start_tracking(config: TrainConfig, folder: Path) -> Sender:
    record = RunRecord.load(folder)
    sender = Sender(
        config.tracking.uri or default_uri(config.output),
        folder,
        _run_facts(config, folder),
        run_id=record.mlflow_run_id if record else "",
    )
    sender.start()
    folder.mkdir(parents=True, exist_ok=True)
    RunRecord("running", sender.run_id).save(folder)
    return sender


def _run_facts(config: TrainConfig, folder: Path) -> RunFacts:
    return RunFacts(
        experiment=config.tracking.experiment,
        run_name=config.run.name,
        params=flatten(config),
        artifact_path=folder.parent / "mlartifacts",
    )
