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
from yt8m_ray.config.distillation import check_pair
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.inference.predictor import locate_model
from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.layers import set_batch_norm_sync
from yt8m_ray.training.steps.distributed import is_distributed, rank
from yt8m_ray.training.steps.loop import TrainingLoop
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

    Args:
        config: The run.
        device: Where to compute.
        shards: Of `train`, which soft labels go by.
        num_videos: Estimated videos of an epoch.
        checkpoint: Where to continue; None begins with new weights, or those of `train.init_from`.
        teacher_outputs: What goes with the videos besides labels; None takes what the config names.
        should_stop: Whether the run is to stop.

    Raises:
        ConfigError: a teacher does not go with the model.
        ValueError: a checkpoint is damaged, or does not fit.
    """
    torch.manual_seed(config.run.seed)  # the same initial weights on all workers
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    teacher = build_teacher(config)
    teacher_outputs = TeacherOutputs.load(config, shards, device) if teacher_outputs is None else teacher_outputs
    frozen = teacher_outputs.frozen_teacher
    if frozen is not None:
        check_pair(config.teacher, model, frozen.model)
    if checkpoint is not None:
        load_weights(model, checkpoint / MODEL_FILE)
        if teacher is not None:
            load_weights(teacher, checkpoint / TEACHER_FOLDER / MODEL_FILE)
    elif config.train.init_from is not None:
        _initialize(model, config.train.init_from)
    freeze(dict(model.named_parameters()), config.optimizer)
    objective: torch.nn.Module = Objective(
        model, build_loss(config.loss), distillation=config.distillation, teaching=config.teacher, teacher=teacher
    ).to(device)
    set_batch_norm_sync(objective, config.train.sync_batch_norm)
    if config.train.compile:
        objective.compile()
    if is_distributed():
        # Without forward_sync_buffers: batch norm synchronises its statistics, or they are shared where they are used.
        objective = DistributedDataParallel(objective, forward_sync_buffers=False, gradient_as_bucket_view=True)
    loop = TrainingLoop(
        objective,
        config,
        spec=config.data.spec,
        device=device,
        run_examples=run_examples(config, num_videos),
        teacher_outputs=teacher_outputs,
        should_stop=should_stop,
    )
    return loop, Position() if checkpoint is None else _continue(loop, checkpoint)


def _continue(loop: TrainingLoop, checkpoint: Path) -> Position:
    tensors = read_tensors(checkpoint / STATE_FILE)
    loop.load_state(tensors)
    average = checkpoint / EMA_FILE
    if loop.ema is not None and average.is_file():
        load_weights(loop.ema.average, average)
    position = Position.from_arrays(
        {name.removeprefix("position."): t.numpy() for name, t in tensors.items() if name.startswith("position.")}
    )
    if rank() == 0:
        logger.info(
            "continuing from %s: epoch %d, %d of its videos done", checkpoint, position.epoch + 1, position.num_done
        )
    return position


def _initialize(model: Model, checkpoint: str) -> None:
    """Starts from the weights of another run; logs which weights the model has of its own."""
    new = initialize(model, locate_model(checkpoint))
    if rank() == 0:
        names = f"; {len(new)} start anew: {', '.join(new[:8])}{', ...' * (len(new) > 8)}" if new else ""
        logger.info("starting from the weights of %s%s", checkpoint, names)
