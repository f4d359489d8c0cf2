"""What each training worker does: epochs of steps, validation and checkpoints. Torch only; the trainer feeds it."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yt8m_ray.artifacts.checkpoint import (
    checkpoint_name,
    save_checkpoint,
)
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.errors import UNLABELLED
from yt8m_ray.data.inspection.dataset_manifest import check_num_records
from yt8m_ray.data.pipeline.batches import batches_of, prefetch, to_batch
from yt8m_ray.data.pipeline.packed_videos import Block, PackedVideos, Rejection, ShardEnd
from yt8m_ray.data.pipeline.read_position import CAUSES, Position
from yt8m_ray.data.pipeline.unlabelled import check_labelled
from yt8m_ray.evaluation import evaluate
from yt8m_ray.losses import LOSSES
from yt8m_ray.training.driver.progress import describe
from yt8m_ray.training.driver.system_metrics import SystemMetrics
from yt8m_ray.training.run.checkpoints import Checkpoints, CheckpointWriteError
from yt8m_ray.training.run.run_folder import SHARDS_KEY, shards_digest
from yt8m_ray.training.steps.build_loop import build_loop
from yt8m_ray.training.steps.distributed import (
    from_rank_0,
    gather,
    rank,
    share_buffers,
    sum_over_workers,
    world_size,
)
from yt8m_ray.training.steps.profiling import TRACE_FILE, traced
from yt8m_ray.training.steps.teachers import TEACHER_FOLDER, save_teacher

logger = logging.getLogger(__name__)

Metrics = dict[str, float]
Remarks = tuple[list[Rejection], list[ShardEnd]]


@dataclass(frozen=True)
class WorkerPorts:
    """What a worker needs from outside.

    Attributes:
        read: `read(split)` starts a pass over this worker's share of `train` or `validation`.
        checkpoints: Where those of the run are kept.
        report: `report(metrics)` says that a checkpoint is there; called by all workers.
        start_epoch: `start_epoch(position)` on rank 0 says where the next passes over `train` begin.
        should_stop: Whether the run is to stop behind the running step.
        log: `log(metrics, step, progress)` on rank 0 keeps curves, and how far the run is.
        run_id: Where they are kept, for the manifest.
    """

    read: Callable[[str], Iterator[Block]]
    checkpoints: Checkpoints
    report: Callable[[Metrics], None]
    start_epoch: Callable[[Position], None]
    should_stop: Callable[[], bool]
    log: Callable[[Metrics, int, Metrics], None]
    run_id: str


class Worker:
    """One worker of a run.

    Args:
        config: The run.
        run_path: A folder of the run for what is no checkpoint: traces, profiles.
        num_videos: Estimated videos of an epoch, for the time left.
        num_records: Of each shard of `train` and `validation` as the manifest says; empty where there is none.
        shards: Paths of `train` and `validation`; the position in a checkpoint speaks of their numbers.
        device: Where to compute.
        ports: The way out.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_path: Path,
        *,
        num_videos: float,
        shards: Mapping[str, Sequence[str]],
        num_records: Mapping[str, Sequence[int]],
        device: torch.device,
        ports: WorkerPorts,
    ) -> None:
        self._config = config
        self._run_path = run_path
        self._num_videos = num_videos
        self._shards = shards
        self._num_records = num_records
        self._device = device
        self._ports = ports
        self._spec = config.data.spec
        self._started = from_rank_0(time.time())  # tells the steps of a start from those that another does again
        self._read_whole: set[str] = set()
        self._is_profiled = False
        self._details: dict[str, np.ndarray] = {}  # of a validation whose checkpoint is not written yet
        self._system = SystemMetrics(device, enabled=config.tracking.system_metrics)
        self._loss = LOSSES.build(config.loss).to(device)
        name: str | None = from_rank_0(ports.checkpoints.latest() if rank() == 0 else None)
        self._last_checkpoint = name
        self._loop, self._start = build_loop(
            config,
            device=device,
            shards=shards["train"],
            num_videos=num_videos,
            checkpoint=None if name is None else ports.checkpoints.path(name),
            should_stop=ports.should_stop,
        )

    def run(self) -> Metrics:
        """Trains to the end, or to where it is to stop, and returns the last metrics."""
        metrics: Metrics = {}
        if rank() == 0:
            logger.info("%d workers on %s, from step %d", world_size(), self._device, self._loop.progress.step)
        progress = self._loop.progress
        while (progress.is_validation_due or not self._loop.is_finished) and not self._is_stopped():
            metrics = self._end_epoch({}) if progress.is_validation_due else self._run_epoch()
        return metrics

    def _is_stopped(self) -> bool:
        """Returns whether the run is to stop; collective."""
        return self._loop.is_stopped or sum_over_workers([self._ports.should_stop()], self._device)[0] > 0

    def _run_epoch(self) -> Metrics:
        """Takes the steps of an epoch, or those that are left of it; collective."""
        loop, config = self._loop, self._config
        epoch, first_step = loop.progress.position.epoch, loop.progress.step
        if rank() == 0:
            self._ports.start_epoch(self._start)
        from_rank_0(None)  # no worker starts to read before the position is there
        torch.manual_seed(self._stream_seed(first_step))
        videos = self._batches(
            "train",
            loop.progress.position,
            shuffle_window=config.data.shuffle_window,
            seed=(config.run.seed, epoch, rank(), first_step),
        )
        if config.run.trace_videos:
            videos = self._traced(videos)
        started = time.perf_counter()
        metrics: Metrics = {}
        for step in self._profiled(loop.steps(videos)):
            if step % config.train.log_every_steps == 0:
                metrics = self._log_interval(started)
            every = config.checkpoint.every_steps
            if every is not None and step % every == 0 and not (loop.is_finished or loop.is_stopped):
                self._checkpoint(metrics)
        metrics |= self._log_interval(started)
        if loop.is_stopped and not loop.is_finished:
            self._checkpoint(metrics, only_if_new=True)
            return metrics
        if loop.progress.step == first_step and not self._start.num_done:
            self._check_labelled("train", self._whole_position())
            raise ValueError("data.train: the shards hold no video")
        return self._end_epoch(metrics)

    def _end_epoch(self, metrics: Metrics) -> Metrics:
        """Validates behind the last step of an epoch, or of the run, and writes a checkpoint; collective.

        Where the run is to stop meanwhile, the validation is left to the next start.
        """
        progress, is_epoch_complete = self._loop.progress, not self._loop.is_finished
        progress.is_validation_due = True
        metrics = {**metrics, "epoch": progress.position.epoch + 1, **self._account(is_epoch_complete)}
        validation = self._validate()
        if validation is None:
            self._checkpoint(metrics, only_if_new=True)
            return metrics
        progress.is_validation_due = False
        metrics |= validation
        if rank() == 0:
            of_epoch = {name: value for name, value in metrics.items() if name.startswith(("data/", "validation/"))}
            self._ports.log(of_epoch, progress.step, {})
        if is_epoch_complete:
            self._num_videos = progress.num_examples_in_epoch
            progress.num_examples_in_epoch = 0
            progress.position.start_epoch(progress.position.epoch + 1)
            self._start = Position(progress.position.epoch)
        self._checkpoint(metrics)
        return metrics

    def _account(self, is_epoch_complete: bool) -> Metrics:
        """Returns what was read and rejected in the epoch; where it is complete, every record has to be either."""
        position = self._whole_position()
        if is_epoch_complete:
            self._check_complete("train", position)
            self._check_labelled("train", position)
        return {"data/videos_read": position.num_done - position.num_rejected, **_rejected("data", position)}

    def _check_complete(self, split: str, position: Position) -> None:
        position.check_complete(self._shards[split])
        if split in self._num_records:
            check_num_records(self._shards[split], self._num_records[split], position.num_records)

    def _check_labelled(self, split: str, position: Position) -> None:
        """Checks that some video had labels; warns once a run where some had none."""
        check_labelled(f"data.{split}", position, warns=rank() == 0 and not self._loop.progress.position.epoch)

    def _validate(self) -> Metrics | None:
        """Returns the metrics of the validation videos, or None where the run is to stop before all were seen."""
        config, should_stop = self._config, self._ports.should_stop
        if "validation" not in self._shards:
            return {}
        model = self._loop.evaluated_model
        share_buffers(model)
        seen = Position()
        batches = (
            to_batch(_counted(part, seen), spec=self._spec, normalize=config.data.normalize, device=self._device)
            for part in itertools.takewhile(lambda _: not should_stop(), self._batches("validation", seen))
        )
        whole, *others = gather(evaluate(model, batches, self._loss))
        for other in others:
            whole.merge(other)
        position = Position()
        for mine in gather(seen):
            position.merge(mine)
        is_stopping = sum_over_workers([should_stop()], self._device)[0] > 0
        if is_stopping and not position.is_complete(len(self._shards["validation"])):
            if rank() == 0:
                logger.info("the validation is broken off; the next start makes up for it")
            return None
        self._check_complete("validation", position)
        self._check_labelled("validation", position)
        whole.check_scorable("data.validation")
        values = whole.compute()
        if rank() == 0:
            self._details = whole.details()
            logger.info(
                "epoch %d/%d validation on %d videos: GAP %.4f  Hit@1 %.4f  PERR %.4f  mAP %.4f  loss %.4f",
                self._loop.progress.position.epoch + 1,
                config.train.num_epochs,
                whole.num_videos,
                *(values[name] for name in ("gap", "hit_at_1", "perr", "mean_ap", "loss")),
            )
        values_of_split = {f"validation/{name}": float(value) for name, value in values.items()}
        return values_of_split | _rejected("validation", position)

    def _log_interval(self, started: float) -> Metrics:
        metrics, progress = self._loop.interval(), self._loop.progress
        if rank() == 0 and metrics:
            done = progress.num_examples_in_epoch / max(self._num_videos, progress.num_examples_in_epoch, 1)
            total = self._num_videos * (self._config.train.num_epochs - progress.position.epoch - done)
            far = {
                "num_epochs": self._config.train.num_epochs,
                "epochs": progress.position.epoch + done,
                "left_s": total / max(metrics["train/videos_per_s"], 1e-9),
            }
            logger.info("%s", describe(metrics, progress.step, far))
            self._ports.log(metrics | self._system.read(), progress.step, far)
        return {**metrics, "epoch": progress.position.epoch + 1, "seconds": time.perf_counter() - started}

    def _checkpoint(self, metrics: Metrics, *, only_if_new: bool = False) -> None:
        """Writes and reports a checkpoint; collective.

        Args:
            metrics: What it is known by.
            only_if_new: Writes none where no step was taken since the last one.
        """
        position = self._whole_position()
        loop = self._loop
        name = checkpoint_name(epoch=position.epoch, step=loop.progress.step)
        if only_if_new and name == self._last_checkpoint:
            return
        average = None if loop.ema is None else loop.ema.average
        for model in (loop.model, loop.teacher, average):
            if model is not None:
                share_buffers(model)
        cpu_s = sum_over_workers([time.process_time()], self._device)[0]
        failure = None
        if rank() == 0:
            facts = {
                "step": self._loop.progress.step,
                "mlflow_run_id": self._ports.run_id,
                "metrics": {**metrics, "train/worker_cpu_s": cpu_s},
            }

            def write(folder: Path) -> None:
                if loop.teacher is not None:
                    save_teacher(folder / TEACHER_FOLDER, config=self._config, model=loop.teacher)
                save_checkpoint(
                    folder,
                    config=self._config,
                    model=loop.model,
                    state={**loop.state(position), SHARDS_KEY: shards_digest(self._shards["train"])},
                    facts=facts,
                    average=average,
                    details=self._details,
                )

            try:
                self._ports.checkpoints.save(name, write)
            except CheckpointWriteError as error:
                failure = error
            self._details = {}
        failure = from_rank_0(failure)
        if failure is None:
            self._last_checkpoint = name
            self._ports.report(metrics)
        elif self._config.checkpoint.on_write_error == "stop":
            raise failure
        elif rank() == 0:
            logger.error("%s; the run goes on without it", failure)

    def _whole_position(self) -> Position:
        """Returns what all workers, in all runs of this epoch, have done; collective."""
        position = Position(self._loop.progress.position.epoch)
        for mine in gather(self._loop.progress.position):
            position.merge(mine)
        position.merge(self._start)
        return position

    def _batches(self, split: str, position: Position, **order: Any) -> Iterator[PackedVideos]:
        """Yields this worker's batches of a pass, prepared by another thread; what the reader says goes to `position`.

        The position itself belongs to this thread alone, so the remarks wait in a queue until it takes a batch.
        """
        remarks: deque[Remarks] = deque()
        batches = batches_of(
            _videos_of(self._ports.read(split), remarks),
            batch_size=self._local_batch_size(),
            pin_memory=self._device.type == "cuda",
            **order,
        )
        for batch in prefetch(batches, should_stop=self._ports.should_stop):
            self._note(split, remarks, position)
            yield batch
        self._note(split, remarks, position)
        if not (split == "train" and self._start.num_done):  # else a part of it was read before this process was there
            self._read_whole.add(split)

    def _note(self, split: str, remarks: deque[Remarks], position: Position) -> None:
        """Counts what the reader said; what was left out is logged on the first pass alone."""
        while remarks:
            rejections, ends = remarks.popleft()
            position.add_remarks(rejections, ends)
            for end in ends:
                if end.message is not None and split not in self._read_whole:
                    logger.warning("%s", end.message)

    def _traced(self, videos: Iterator[PackedVideos]) -> Iterator[PackedVideos]:
        """Passes batches on and writes down which videos are in which step."""
        progress = self._loop.progress
        with (self._run_path / f"videos-{rank()}.jsonl").open("a", encoding="utf-8") as file:
            for batch in videos:
                step = {"started": self._started, "epoch": progress.position.epoch, "step": progress.step + 1}
                line = {**step, "videos": list(batch.video_ids)}
                file.write(json.dumps(line) + "\n")
                file.flush()
                yield batch

    def _profiled(self, steps: Iterator[int]) -> Iterator[int]:
        """Passes steps on; those of this process's first epoch are traced where that is wished."""
        if rank() or self._is_profiled or not self._config.train.profile:
            return steps
        self._is_profiled = True
        return traced(steps, self._run_path / TRACE_FILE, self._device)

    def _local_batch_size(self) -> int:
        whole, rest = divmod(self._config.train.batch_size, world_size())
        return max(whole + (rank() < rest), 1)

    def _stream_seed(self, step: int) -> int:
        return int(np.random.SeedSequence([self._config.run.seed, step, rank()]).generate_state(1)[0])


def _videos_of(blocks: Iterator[Block], remarks: deque[Remarks]) -> Iterator[PackedVideos]:
    """Yields the videos of blocks, and puts what the reader says besides into `remarks`."""
    for block in blocks:
        remarks.append((block.rejections, block.ends))
        yield block.videos


def _counted(videos: PackedVideos, position: Position) -> PackedVideos:
    position.add(videos.shards, videos.records)
    return videos


def _rejected(split: str, position: Position) -> Metrics:
    rejected = {f"{split}/rejected_{cause}": float(position.rejected[cause]) for cause in CAUSES}
    return {**rejected, f"{split}/unlabelled": float(position.rejected[UNLABELLED])}
