"""The checkpoints that the workers of a run write together."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.artifacts.checkpoint_folders import checkpoint_name
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.training.run.checkpoints import Checkpoints, CheckpointWriteError
from yt8m_ray.training.run.run_folder import SHARDS_KEY, shards_digest
from yt8m_ray.training.steps.distributed import from_rank_0, rank, share_buffers, sum_over_workers
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.teachers import TEACHER_FOLDER, save_teacher

logger = logging.getLogger(__name__)


@dataclass
class CheckpointWriter:
    """Writes what a run needs to continue; rank 0 has the files, every worker takes part."""

    config: TrainConfig
    loop: TrainingLoop
    checkpoints: Checkpoints
    shards: Sequence[str]  # of `train`
    mlflow_run_id: str  # for the manifest
    device: torch.device
    last: str | None  # the checkpoint that was written last, or that the run continues from

    def write(
        self,
        position: Position,
        metrics: Mapping[str, float],
        *,
        details: Mapping[str, np.ndarray] | None = None,
        only_if_new: bool = False,
    ) -> bool:
        """Writes a checkpoint and returns whether it is there; collective.

        `position` is what all workers have done of the epoch; `only_if_new` writes none where no step was taken since
        the last one. CheckpointWriteError where it cannot be written, and `checkpoint.on_write_error` is to stop.
        """
        loop = self.loop
        name = checkpoint_name(epoch=position.epoch, step=loop.progress.step)
        if only_if_new and name == self.last:
            return False
        average = None if loop.ema is None else loop.ema.average
        for model in (loop.model, loop.teacher, average):
            if model is not None:
                share_buffers(model)
        # Of these processes since they were started: a continued run begins to count again.
        cpu_s = sum_over_workers([time.process_time()], self.device)[0]

        def write(folder: Path) -> None:
            if loop.teacher is not None:
                save_teacher(folder / TEACHER_FOLDER, config=self.config, model=loop.teacher)
            save_checkpoint(
                folder,
                config=self.config,
                model=loop.model,
                state={**loop.state(position), SHARDS_KEY: shards_digest(self.shards)},
                facts={
                    "step": loop.progress.step,
                    "mlflow_run_id": self.mlflow_run_id,
                    "metrics": {**metrics, "train/worker_cpu_s": cpu_s},
                },
                average=average,
                details=details,
            )

        failure = None
        if rank() == 0:
            try:
                self.checkpoints.save(name, write)
            except CheckpointWriteError as error:
                failure = error
        # Every worker learns of a failure: one that raised alone would leave the others in their next collective.
        failure = from_rank_0(failure)
        if failure is None:
            self.last = name
        elif self.config.checkpoint.on_write_error == "stop":
            raise failure
        elif rank() == 0:
            logger.error("%s; the run goes on without it", failure)
        return failure is None
