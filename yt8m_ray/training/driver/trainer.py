"""fit(config) -> FitResult on Ray Train. The only module that trains through ray.train."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from yt8m_ray.artifacts.checkpoint_folders import best_checkpoint
from yt8m_ray.cluster import root_cause
from yt8m_ray.config.train import TrainConfig, with_absolute_paths
from yt8m_ray.data.pipeline.packed_videos import Block, from_table
from yt8m_ray.data.pipeline.ray_dataset import keep_order, read_dataset, split_dataset
from yt8m_ray.errors import ConfigError, YT8MError
from yt8m_ray.tracking.models import CHECKPOINT_PATH
from yt8m_ray.training.driver.coordinator import Coordinator, Messages
from yt8m_ray.training.driver.failures import final_error, last_line
from yt8m_ray.training.driver.interruptible import TERMINATED, run_interruptibly
from yt8m_ray.training.driver.nodes import (
    CLUSTER_WAIT_S,
    can_train_here,
    check_shared,
    fitting_workers,
    reserved_cpus,
    wait_for_workers,
)
from yt8m_ray.training.driver.process_group import BoundTorchConfig
from yt8m_ray.training.driver.progress import progress_bar
from yt8m_ray.training.driver.scaling import Workers
from yt8m_ray.training.driver.supervisor import Supervisor
from yt8m_ray.training.driver.validation import Metrics
from yt8m_ray.training.driver.worker import Worker
from yt8m_ray.training.run.checkpoints import CheckpointWriteError
from yt8m_ray.training.run.hooks import RunHooks
from yt8m_ray.training.run.inputs import RunInputs, prepare_inputs, splits_of
from yt8m_ray.training.run.log_files import logging_to
from yt8m_ray.training.run.outcome import (
    MLFLOW_STATUS,
    FitResult,
    add_report,
    describe,
    describe_stop,
    outcome_of,
    sender_of,
    start_tracking,
)
from yt8m_ray.training.run.run_folder import LOG_FILE, RunRecord, Status, append_log, check_resume, is_finished, locked
from yt8m_ray.training.run.run_store import RunStore
from yt8m_ray.training.steps.distributed import rank
from yt8m_ray.training.steps.profiling import TRACE_FILE

logger = logging.getLogger(__name__)


class WorkersLostError(YT8MError, RuntimeError):
    """Workers died more often than `scaling.max_failures` allows."""


class NodeLeavingError(RuntimeError):
    """The node of a run that trains in its own process is about to go; its checkpoint is written."""


def fit(config: TrainConfig, hooks: RunHooks | None = None) -> FitResult:
    """Trains, or continues, the run that `config` describes, on the Ray cluster this process is connected to.

    Raises:
        ConfigError: the config cannot be run here, or another command is at work on the same run.
        ValueError, OSError, FloatingPointError: the data or the optimisation failed; the message says where.
        WorkersLostError: too many workers died.
        NodeLeavingError: this process is the run's worker, and its node is about to go.
        SystemExit, KeyboardInterrupt: the run was stopped, by `hooks` or by a signal.
    """
    hooks = hooks or RunHooks()
    config = with_absolute_paths(config)
    store = RunStore(config)
    shards = splits_of(config.data)
    # Before anything of the folder is read: a run that is at work removes checkpoints.
    with locked(store.folder):
        store.pull()
        continued = check_resume(config, shards["train"])
        if is_finished(config):
            return _finished(config, store, hooks)
        inputs = prepare_inputs(config, shards, is_new=continued is None)
        fitting_workers(config)  # a run that never fits is refused before anything is written
        return _run(config, store, inputs, hooks)


def _run(config: TrainConfig, store: RunStore, inputs: RunInputs, hooks: RunHooks) -> FitResult:
    """Trains, and records in MLflow and in the run's folder how it ended."""
    folder, shards, manifest = store.folder, inputs.shards, inputs.manifest
    tracker = start_tracking(config, folder, inputs, hooks)
    store.push()
    status: Status = "failed"
    try:
        payload = {
            "config": config.model_dump(mode="json"),
            "run_path": str(folder),
            "checkpoints": store.checkpoints,
            "num_videos": inputs.num_videos,
            "shards": shards,
            "num_records": {split: manifest.num_records_of(shards[split]) for split in shards} if manifest else {},
            "mlflow_run_id": tracker.run_id,
        }
        _fit_with_restarts(config, store, payload, hooks)
        checkpoint, metrics = best_checkpoint(folder)
        if hooks.has_uploads:
            tracker.add_artifacts(checkpoint, artifact_path=CHECKPOINT_PATH)
        if (folder / TRACE_FILE).exists():
            tracker.add_artifacts(folder / TRACE_FILE)
        if config.train.report:
            add_report(folder, tracker)
        # A search removes the checkpoints of most trials.
        is_kept, place = hooks.has_uploads, store.place_of(checkpoint)
        tracker.set_outcome(outcome_of(config, tracker.facts, checkpoint, place, metrics, is_kept=is_kept))
        logger.info("%s", describe(store.place_of(checkpoint), metrics))
        status = "finished"
    except (KeyboardInterrupt, SystemExit):
        status = "stopped"
        logger.warning("%s", describe_stop(store))
        raise
    except Exception:
        # A user sees one message; where it came from is here.
        append_log(folder, traceback.format_exc().splitlines())
        raise
    finally:
        store.record(RunRecord(status, tracker.run_id))
        tracker.close(MLFLOW_STATUS[status])
    return FitResult(checkpoint, store.place_of(checkpoint), metrics, folder, tracker.uri, tracker.run_id)


def _finished(config: TrainConfig, store: RunStore, hooks: RunHooks) -> FitResult:
    """Returns the outcome of a run that has nothing left to train, and logs it."""
    checkpoint, metrics = best_checkpoint(store.folder)
    place = store.place_of(checkpoint)
    logger.warning(
        "run %s is finished already, nothing was trained; raise train.num_epochs to continue it, or choose another "
        "run.name. Its %s",
        config.run.name,
        describe(place, metrics),
    )
    sender = sender_of(config, store.folder, hooks)
    sender.send_the_rest()
    return FitResult(checkpoint, place, metrics, store.folder, sender.uri, sender.run_id)


def _fit_with_restarts(config: TrainConfig, store: RunStore, payload: dict[str, Any], hooks: RunHooks) -> None:
    """Trains until the run is at its end, over losses of workers and changes of the cluster."""
    num_losses, workers = 0, fitting_workers(config)
    while True:
        if not store.is_remote:
            check_shared(store.folder)
        is_local = hooks.is_in_process or can_train_here(config, workers)
        supervisor = Supervisor(config, workers, store.folder, hooks, is_local=is_local)
        try:
            train = _train_here if is_local else _train
            with progress_bar(store.folder) as bar:
                tick = functools.partial(supervisor.tick, bar)
                train(config, {**payload, "coordinator": supervisor.coordinator}, supervisor, tick)
        except ray.train.TrainingFailedError as error:
            reason = final_error(error)
            if reason is not None:
                raise reason from None
            num_losses += 1
            if num_losses > config.scaling.max_failures:
                raise WorkersLostError(f"{num_losses} times a worker was lost, last: {last_line(error)}") from None
            logger.warning("a worker was lost; starting again from the last checkpoint: %s", last_line(error))
        else:
            store.pull()
            if is_finished(config):
                return
            if supervisor.reason is None:
                raise CheckpointWriteError(f"{store.folder}: the run's last checkpoint could not be written")
            if supervisor.has_notice and hooks.is_in_process:
                raise NodeLeavingError(supervisor.reason)
            logger.info("%s; starting again from the last checkpoint", supervisor.reason)
        workers = _workers_again(config, supervisor)


def _train(config: TrainConfig, payload: dict[str, Any], supervisor: Supervisor, tick: Callable[[], None]) -> None:
    """Trains with workers elsewhere until they end."""
    workers, folder = supervisor.workers, Path(payload["run_path"])
    resources = {"CPU": workers.cpus_each, **({"GPU": workers.gpus_each} if workers.use_gpu else {})}
    with tempfile.TemporaryDirectory(prefix="yt8m_train_") as notes:  # of Ray's own: checkpoints are ours
        trainer = ray.train.torch.TorchTrainer(
            _work,
            torch_config=BoundTorchConfig(),
            train_loop_config=payload,
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers.num, use_gpu=workers.use_gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=folder.name,
                storage_path=notes,
                # Restarts and changes of size are ours: Ray's would restart after an error in the data or the code too,
                # and would wait for ever for a node that does not come back (Ray 2.60).
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg]
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
            datasets=_datasets(config, payload, num_parts=workers.num),
            dataset_config=_SplitAll(),
        )
        run_interruptibly(trainer.fit, tick=tick, ask_to_stop=supervisor.ask_to_stop)


def _train_here(config: TrainConfig, payload: dict[str, Any], supervisor: Supervisor, tick: Callable[[], None]) -> None:
    """Trains with this process as the one worker, in Ray Train's local mode."""
    datasets = _datasets(config, payload, num_parts=1)
    for dataset in datasets.values():
        keep_order(dataset)  # so that the same run gives the same weights
    trainer = ray.train.torch.TorchTrainer(
        functools.partial(_work_here, payload, supervisor),
        scaling_config=ray.train.ScalingConfig(num_workers=0, use_gpu=supervisor.workers.use_gpu),
        datasets=datasets,
    )

    def train() -> None:
        # A trial of a search has its CPUs from Ray Tune. Elsewhere other work of the cluster must not take them.
        has_cpus = supervisor.hooks.is_in_process
        with contextlib.nullcontext() if has_cpus else reserved_cpus(supervisor.workers.cpus_each):
            trainer.fit()

    try:
        run_interruptibly(train, tick=tick, ask_to_stop=supervisor.ask_to_stop)
    except ray.exceptions.RayError as error:
        raise root_cause(error) from None


def _workers_again(config: TrainConfig, supervisor: Supervisor) -> Workers:
    """Returns the workers to go on with, on the nodes that are left."""
    try:
        return wait_for_workers(config, wait_s=0 if supervisor.has_notice else CLUSTER_WAIT_S)
    except ConfigError as error:
        if not supervisor.has_notice:
            raise WorkersLostError(f"nodes were lost: {error}") from None
        logger.warning("what is left of the cluster is too small: %s", error)
        raise SystemExit(TERMINATED) from None


def _datasets(config: TrainConfig, payload: dict[str, Any], *, num_parts: int) -> dict[str, Any]:
    def read(split: str, **order: Any) -> Any:
        data, options, paths = config.data, config.read_options(split), payload["shards"][split]
        return read_dataset(paths, data.spec, options, num_parts=num_parts, cache=data.cache, **order)

    coordinator: Coordinator | Messages = payload["coordinator"]
    datasets = {"train": read("train", shuffle_seed=config.run.seed, position=coordinator.position)}
    if "validation" in payload["shards"]:
        datasets["validation"] = read("validation")
    return datasets


def _work(payload: dict[str, Any]) -> None:
    """The function that Ray Train runs in each worker."""
    coordinator: Coordinator = payload["coordinator"]
    coordinator.join(ray.get_runtime_context().get_node_id())
    # No verb has configured the log of this process; the driver passes the lines on.
    package_logger = logging.getLogger("yt8m_ray")
    package_logger.addHandler(coordinator.log_handler())
    package_logger.setLevel(logging.INFO)
    _run_worker(payload, device=ray.train.torch.get_device(), on_checkpoint=coordinator.add_reported)


def _work_here(payload: dict[str, Any], supervisor: Supervisor) -> None:
    # Ray hides no GPU from a process that asked for none, and its local mode takes any that it finds.
    device = torch.device("cuda" if supervisor.workers.use_gpu else "cpu")
    with logging_to(Path(payload["run_path"]) / LOG_FILE, prefix=""):
        supervisor.coordinator.join(ray.get_runtime_context().get_node_id())
        _run_worker(payload, device=device, on_checkpoint=supervisor.hooks.checkpoint_written)


def _run_worker(payload: dict[str, Any], *, device: torch.device, on_checkpoint: Callable[[Metrics], None]) -> None:
    """Trains as one of the run's workers."""
    config = TrainConfig.model_validate(payload["config"])
    num_threads = config.scaling.cpus_per_worker or float(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(max(1, int(num_threads)))
    folder = Path(payload["run_path"])
    folder.mkdir(parents=True, exist_ok=True)  # a copy of the run's folder is not on every node
    worker = Worker(
        config,
        folder,
        num_videos=payload["num_videos"],
        shards=payload["shards"],
        num_records=payload["num_records"],
        device=device,
        coordinator=_TrainCoordinator(config, payload, on_checkpoint),
    )
    worker.run()


class _TrainCoordinator:
    """A `WorkerCoordinator` in a worker of Ray Train."""

    def __init__(self, config: TrainConfig, payload: dict[str, Any], on_checkpoint: Callable[[Metrics], None]) -> None:
        coordinator: Coordinator | Messages = payload["coordinator"]
        self.checkpoints = payload["checkpoints"]
        self.mlflow_run_id: str = payload["mlflow_run_id"]
        self.start_epoch = coordinator.start_epoch
        self.should_stop = coordinator.stop_event().is_set
        self.log = coordinator.add_measured
        self._spec = config.data.spec
        self._on_checkpoint = on_checkpoint

    def read(self, split: str) -> Iterator[Block]:
        # A generator: a pass waits for room in Ray Data, and is to wait in the thread that prepares batches, not in the
        # one that asks whether the run is to stop.
        for table in ray.train.get_dataset_shard(split).iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from_table(table, self._spec)

    def checkpoint_written(self, metrics: Metrics) -> None:
        ray.train.report(metrics)
        if rank() == 0:
            self._on_checkpoint(metrics)


class _SplitAll(ray.train.DataConfig):
    """Splits every dataset without dropping rows; Ray's own split drops the remainder to make the parts equal."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, worker_handles: Any, worker_node_ids: Any, **_: Any
    ) -> list[dict[str, Any]]:
        splits = {name: split_dataset(dataset, world_size) for name, dataset in datasets.items()}
        return [{name: parts[rank] for name, parts in splits.items()} for rank in range(world_size)]
