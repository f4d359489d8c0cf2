"""A config -> its training loop: model, teachers, objective and starting weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from yt8m_ray.artifacts.checkpoint import EMA_FILE, initialize, load_weights, read_tensors
from yt8m_ray.artifacts.folder_manifest import MODEL_FILE, STATE_FILE
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.inference.locate import locate_model
from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.layers import set_batch_norm_sync
from yt8m_ray.models.recurrent import keep_scans_uncompiled
from yt8m_ray.training.steps.distributed import rank, world_size
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.model_checks import check_pair
from yt8m_ray.training.steps.objective import Objective
from yt8m_ray.training.steps.optimizer import freeze, run_examples
from yt8m_ray.training.steps.teachers import TEACHER_FOLDER, TeacherOutputs, build_teacher

logger = logging.getLogger(__name__)


def build_loop(
    config: TrainConfig,
    *,
    device: torch.device,
    shards: Sequence[str] = (),
    num_videos: float = math.inf,
    checkpoint: Path | None = None,
    teacher_outputs: TeacherOutputs | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TrainingLoop, Position]:
    """Returns the loop of a run, on this worker, and what of its epoch was done before.

    Without a checkpoint it begins with new weights, or those of `train.init_from`. `shards` are those of `train`, which
    soft labels go by, and `num_videos` is the estimated size of an epoch. `teacher_outputs` replaces what the config
    names. ConfigError where a teacher does not go with the model, ValueError for a checkpoint that does not fit.
    """
    # The same initial weights on all workers.
    torch.manual_seed(config.run.seed)
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    teacher = build_teacher(config)
    teacher_outputs = TeacherOutputs.load(config, shards, device) if teacher_outputs is None else teacher_outputs
    # Before training starts: the representations of student and teacher have one size.
    frozen = teacher_outputs.frozen_teacher
    if frozen is not None:
        check_pair(config.teacher, model, frozen.model)
    if checkpoint is not None:
        load_weights(model, checkpoint / MODEL_FILE)
        if teacher is not None:
            load_weights(teacher, checkpoint / TEACHER_FOLDER / MODEL_FILE)
    elif config.train.init_from is not None:
        _initialize(model, config.train.init_from)
    # Before DistributedDataParallel, which waits for the gradient of each parameter that requires one when it is built.
    freeze(dict(model.named_parameters()), config.optimizer)
    objective: torch.nn.Module = Objective(
        model, build_loss(config.loss), distillation=config.distillation, teaching=config.teacher, teacher=teacher
    ).to(device)
    set_batch_norm_sync(objective, config.train.sync_batch_norm)
    if config.train.compile:
        keep_scans_uncompiled()
        objective.compile()
    if world_size() > 1:
        # Without forward_sync_buffers: batch norm synchronises its statistics, or they are shared where they are used.
        objective = DistributedDataParallel(objective, forward_sync_buffers=False, gradient_as_bucket_view=True)
    loop = TrainingLoop(
        objective,
        config,
        device=device,
        run_examples=run_examples(config, num_videos),
        teacher_outputs=teacher_outputs,
        should_stop=should_stop,
    )
    return loop, Position() if checkpoint is None else _continue(loop, checkpoint)


def _continue(loop: TrainingLoop, checkpoint: Path) -> Position:
    tensors = read_tensors(checkpoint / STATE_FILE)
    position = loop.load_state(tensors)
    # A run may have had no average before: then it starts from the weights.
    average = checkpoint / EMA_FILE
    if loop.ema is not None and average.is_file():
        load_weights(loop.ema.average, average)
    if rank() == 0:
        logger.info(
            "continuing from %s: epoch %d, %d of its videos done", checkpoint, position.epoch + 1, position.num_done
        )
    return position


def _initialize(model: Model, checkpoint: str) -> None:
    new = initialize(model, locate_model(checkpoint))
    if rank() == 0:
        names = f"; {len(new)} start anew: {', '.join(new[:8])}{', ...' * (len(new) > 8)}" if new else ""
        logger.info("starting from the weights of %s%s", checkpoint, names)
