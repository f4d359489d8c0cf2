"""What each training worker does: epochs of steps, each with its validation and its checkpoints. Torch only."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.batches import batches_of, prefetch
from yt8m_ray.data.pipeline.packed_videos import Block, PackedVideos, Rejection, ShardEnd
from yt8m_ray.data.pipeline.read_position import Position, check_labelled
from yt8m_ray.training.driver.checkpoint_writer import CheckpointWriter
from yt8m_ray.training.driver.progress import describe
from yt8m_ray.training.driver.system_metrics import SystemMetrics
from yt8m_ray.training.driver.validation import Details, Metrics, Validation, check_complete, rejected
from yt8m_ray.training.run.checkpoints import Checkpoints
from yt8m_ray.training.steps.build_loop import build_loop
from yt8m_ray.training.steps.distributed import from_rank_0, merge_over_workers, rank, sum_over_workers, world_size
from yt8m_ray.training.steps.profiling import TRACE_FILE, traced
from yt8m_ray.wording import counted

logger = logging.getLogger(__name__)

Remarks = tuple[list[Rejection], list[ShardEnd]]


class WorkerCoordinator(Protocol):
    """The run around a worker.

    Attributes:
        checkpoints: Where those of the run are kept.
        mlflow_run_id: The run in MLflow, for the manifests.
    """

    checkpoints: Checkpoints
    mlflow_run_id: str

    def read(self, split: str) -> Iterator[Block]:
        """Starts a pass over this worker's share of `train` or `validation`."""

    def start_epoch(self, position: Position) -> None:
        """Sets, on rank 0, the records that the next passes over `train` leave out."""

    def should_stop(self) -> bool:
        """Returns whether the run is to stop after the running step."""

    def log(self, metrics: Metrics, step: int, progress: Metrics) -> None:
        """Keeps, on rank 0, a point of each curve, and how far the run is."""

    def checkpoint_written(self, metrics: Metrics) -> None:
        """Reports a checkpoint; called by all workers."""


class Worker:
    """One worker of a run.

    Args:
        config: The run.
        run_path: A folder for traces and profiles.
        num_videos: Estimated videos of an epoch, for the time left.
        shards: Paths of `train` and `validation`; the position in a checkpoint speaks of their numbers.
        num_records: Of each shard of a split, where there is a manifest.
        device: Where to compute.
        coordinator: The run around it.
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
        coordinator: WorkerCoordinator,
    ) -> None:
        self._config = config
        self._run_path = run_path
        self._num_videos = num_videos
        self._shards = shards["train"]
        self._num_records = num_records.get("train")
        self._device = device
        self._coordinator = coordinator
        self._started = from_rank_0(time.time())  # in the trace of videos: a later start takes some steps again
        self._read_whole: set[str] = set()
        self._is_profiled = False
        self._system = SystemMetrics(device, enabled=config.tracking.system_metrics)
        checkpoints = coordinator.checkpoints
        last: str | None = from_rank_0(checkpoints.latest() if rank() == 0 else None)
        self._loop, self._start = build_loop(
            config,
            device=device,
            shards=self._shards,
            num_videos=num_videos,
            checkpoint=None if last is None else checkpoints.path(last),
            should_stop=coordinator.should_stop,
        )
        self._writer = CheckpointWriter(
            config,
            self._loop,
            checkpoints,
            shards=self._shards,
            mlflow_run_id=coordinator.mlflow_run_id,
            device=device,
            last=last,
        )
        self._validation = Validation(
            config,
            shards.get("validation", ()),
            num_records.get("validation"),
            device=device,
            batches=lambda seen: self._batches("validation", seen),
            should_stop=coordinator.should_stop,
        )

    def run(self) -> Metrics:
        """Trains to the end, or to where it is to stop, and returns the last metrics."""
        metrics: Metrics = {}
        if rank() == 0:
            workers, step = counted(world_size(), "worker"), self._loop.progress.step
            num_classes = self._config.data.num_classes
            logger.info(
                "%s on %s, from step %d; losses are sums over %d classes", workers, self._device, step, num_classes
            )
        progress = self._loop.progress
        while (progress.is_validation_due or not self._loop.is_finished) and not self._is_stopped():
            metrics = self._end_epoch({}) if progress.is_validation_due else self._run_epoch()
        return metrics

    def _is_stopped(self) -> bool:
        """Returns whether the run is to stop; collective."""
        return self._loop.is_stopped or sum_over_workers([self._coordinator.should_stop()], self._device)[0] > 0

    def _run_epoch(self) -> Metrics:
        """Takes the steps of an epoch, or those that are left of it; collective."""
        loop, config = self._loop, self._config
        epoch, first_step = loop.progress.position.epoch, loop.progress.step
        if rank() == 0:
            self._coordinator.start_epoch(self._start)
        from_rank_0(None)  # a barrier: no worker starts to read before the position is set
        # Augmentation draws from torch's generators: other numbers for each worker, and for each start in an epoch.
        torch.manual_seed(int(np.random.SeedSequence([config.run.seed, first_step, rank()]).generate_state(1)[0]))
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
            self._check_labelled(self._whole_position())
            raise ValueError("data.train: the shards hold no video")
        return self._end_epoch(metrics)

    def _end_epoch(self, metrics: Metrics) -> Metrics:
        """Validates after the last step of an epoch, or of the run, and writes a checkpoint; collective.

        Where the run is to stop meanwhile, the validation is left to the next start.
        """
        progress, is_epoch_complete = self._loop.progress, not self._loop.is_finished
        progress.is_validation_due = True
        position = self._whole_position()
        if is_epoch_complete:
            check_complete(position, self._shards, self._num_records)
            self._check_labelled(position)
        num_read = position.num_done - position.num_rejected
        read = {"train/videos_read": num_read, **rejected("train", position)}
        metrics = {**metrics, "epoch": position.epoch + 1, **read}
        validation = self._validation.run(self._loop.evaluated_model, epoch=position.epoch)
        if validation is None:
            self._checkpoint(metrics, only_if_new=True)
            return metrics
        progress.is_validation_due = False
        metrics |= validation[0]
        if rank() == 0:
            self._coordinator.log(read | validation[0], progress.step, {})
        if is_epoch_complete:
            self._num_videos = progress.num_examples_in_epoch
            progress.num_examples_in_epoch = 0
            progress.position.start_epoch(progress.position.epoch + 1)
            self._start = Position(progress.position.epoch)
        self._checkpoint(metrics, details=validation[1])
        return metrics

    def _check_labelled(self, position: Position) -> None:
        check_labelled("data.train", position, warns=rank() == 0 and not position.epoch)

    def _log_interval(self, started: float) -> Metrics:
        metrics, progress = self._loop.interval(), self._loop.progress
        if rank() == 0 and metrics:
            num_epochs = self._config.train.num_epochs
            epochs = float(progress.position.epoch)
            epochs += progress.num_examples_in_epoch / max(self._num_videos, progress.num_examples_in_epoch, 1)
            left_s = self._num_videos * (num_epochs - epochs) / max(metrics["train/videos_per_s"], 1e-9)
            far = {"num_epochs": num_epochs, "epochs": epochs, "left_s": left_s}
            logger.info("%s", describe(metrics, progress.step, far))
            self._coordinator.log(metrics | self._system.read(), progress.step, far)
        return {**metrics, "epoch": progress.position.epoch + 1, "seconds": time.perf_counter() - started}

    def _checkpoint(self, metrics: Metrics, *, details: Details | None = None, only_if_new: bool = False) -> None:
        """Writes and reports a checkpoint; collective."""
        if self._writer.write(self._whole_position(), metrics, details=details, only_if_new=only_if_new):
            self._coordinator.checkpoint_written(metrics)

    def _whole_position(self) -> Position:
        """Returns what all workers, in all starts of this epoch, have done; collective."""
        mine = self._loop.progress.position
        position = merge_over_workers(mine, Position(mine.epoch))
        position.merge(self._start)
        return position

    def _batches(self, split: str, position: Position, **order: Any) -> Iterator[PackedVideos]:
        """Yields this worker's batches of a pass, prepared by another thread; counts in `position` what it left out."""
        # The position belongs to this thread alone: remarks of the reader wait in a queue until it takes a batch.
        remarks: deque[Remarks] = deque()
        whole, rest = divmod(self._config.train.batch_size, world_size())
        batches = batches_of(
            _videos_of(self._coordinator.read(split), remarks),
            batch_size=max(whole + (rank() < rest), 1),
            pin_memory=self._device.type == "cuda",
            **order,
        )
        for batch in prefetch(batches, should_stop=self._coordinator.should_stop):
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
        """Passes batches on, and writes down which videos are in which step."""
        progress = self._loop.progress
        with (self._run_path / f"videos-{rank()}.jsonl").open("a", encoding="utf-8") as file:
            for batch in videos:
                step = {"started": self._started, "epoch": progress.position.epoch, "step": progress.step + 1}
                file.write(json.dumps({**step, "videos": list(batch.video_ids)}) + "\n")
                file.flush()
                yield batch

    def _profiled(self, steps: Iterator[int]) -> Iterator[int]:
        """Passes steps on; where the config says so, rank 0 traces some of its first epoch."""
        if rank() or self._is_profiled or not self._config.train.profile:
            return steps
        self._is_profiled = True
        return traced(steps, self._run_path / TRACE_FILE, self._device)


def _videos_of(blocks: Iterator[Block], remarks: deque[Remarks]) -> Iterator[PackedVideos]:
    """Yields the videos of blocks, and queues the reader's remarks."""
    for block in blocks:
        remarks.append((block.rejections, block.ends))
        yield block.videos
