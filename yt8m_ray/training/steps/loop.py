"""The training loop: batches in, optimizer steps out, in one process or many."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.metrics import Metric, build_metric
from yt8m_ray.models import Model
from yt8m_ray.models.layers import batch_norms, set_batch_norm_updates
from yt8m_ray.training.steps.distributed import (
    gather,
    merge_over_workers,
    runs_in_bfloat16,
    sum_over_workers,
    world_size,
)
from yt8m_ray.training.steps.ema import MovingAverage
from yt8m_ray.training.steps.objective import Objective
from yt8m_ray.training.steps.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
    prepare_step,
)
from yt8m_ray.training.steps.teachers import TeacherOutputs

logger = logging.getLogger(__name__)

# After more skipped steps in a row the run ends: the weights themselves are not finite.
_MAX_SKIPPED_IN_A_ROW = 10
_NAMED_VIDEOS = 8
# The GAP of an interval is over this many of its steps, and videos of each; over all of them it would slow training.
_SCORED_STEPS = 4
_SCORED_ROWS = 256


@dataclass
class Progress:
    """How far a run is; the same on all workers but for `position`, which has the records of each worker alone."""

    step: int = 0  # steps done
    num_skipped: int = 0  # those of them that were left out
    num_examples: int = 0  # videos trained on over all epochs, which set the learning rate
    num_examples_in_epoch: int = 0
    is_validation_due: bool = False  # the steps of the epoch, or of the run, are done and their validation is not
    position: Position = field(default_factory=Position)


@dataclass
class _Interval:
    """Sums since the last report, of this worker."""

    started: float = field(default_factory=time.perf_counter)
    num_steps: int = 0
    num_videos: int = 0
    loss_sum: float = 0.0
    wait_s: float = 0.0
    gap: Metric = field(default_factory=lambda: build_metric("gap"))


class TrainingLoop:
    """Steps of one run.

    `objective` is an `Objective` on `device`, or one wrapped in DistributedDataParallel. The learning rate falls over
    `run_examples` videos where the config does not say over how many. All workers stop where one of them is to.
    """

    def __init__(
        self,
        objective: torch.nn.Module,
        config: TrainConfig,
        *,
        device: torch.device,
        run_examples: float = math.inf,
        teacher_outputs: TeacherOutputs = TeacherOutputs(),  # noqa: B008 - frozen
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        inner = objective.module if isinstance(objective, DistributedDataParallel) else objective
        assert isinstance(inner, Objective)
        self.model: Model = inner.model
        self.teacher = inner.teacher
        self.is_stopped = False  # by a request to stop; the same on all workers
        self.progress = Progress()
        self._should_stop = should_stop
        self._objective = objective
        self._regularization = inner.regularization
        self._config = config
        self._device = device
        self._is_bfloat16 = runs_in_bfloat16(config.train.precision, device)
        self._run_examples = run_examples
        self._teachers = teacher_outputs
        # What a worker steps with whose videos have run out.
        self._nothing = PackedVideos.from_rows([], config.data.spec)
        named = dict(self.model.named_parameters())
        if self.teacher is not None:
            named |= {f"teacher.{name}": parameter for name, parameter in self.teacher.named_parameters()}
        self._names = {parameter: name for name, parameter in named.items()}
        # A hook before its step sees the rates that the schedule has set.
        self.optimizer = build_optimizer(named, config.optimizer)
        self._interval = _Interval()
        self._last_finite = "none"
        self._skipped_in_a_row = 0
        decay = config.ema.decay_per_step
        self.ema = None if decay is None else MovingAverage(self.model, decay=decay, warm_up=config.ema.warm_up)
        # New statistics count as settled: they have no warm-up.
        if not config.train.warm_up_batch_norm:
            set_batch_norm_updates(inner)
        self._batch_norms = batch_norms(inner)

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its number of epochs or steps."""
        return self._config.train.is_reached(epoch=self.progress.position.epoch, step=self.progress.step)

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """What validation measures: the moving average where the config says so, else the model."""
        return self.model if self.ema is None or not self._config.ema.evaluate else self.ema.average

    def learning_rate(self) -> float:
        """Returns the rate of the next step."""
        return learning_rate(self._config.optimizer, self.progress.num_examples, run_examples=self._run_examples)

    def steps(self, videos: Iterator[PackedVideos]) -> Iterator[int]:
        """Takes a step for each batch, yielding the step's number, until all workers are out of videos or to stop.

        FloatingPointError where a loss or gradient is not finite and `train.on_nonfinite` is to stop, ValueError where
        the device has too little memory for the batch.
        """
        self.model.train()
        if self.teacher is not None:
            self.teacher.train()
        while not (self.is_finished or self.is_stopped):
            started = time.perf_counter()
            mine = next(videos, self._nothing)
            self._interval.wait_s += time.perf_counter() - started
            # All workers take the same number of steps: one without videos left takes part with an empty batch until
            # no worker has any, so that no video is dropped and none waits for ever in a collective.
            total, num_stops = sum_over_workers([len(mine), self._should_stop()], self._device)
            # This step is still taken: no batch was read for nothing.
            self.is_stopped = num_stops > 0
            if not total:
                return
            try:
                self._step(mine, int(total))
            except torch.OutOfMemoryError as error:
                raise ValueError(
                    f"train.batch_size: step {self.progress.step + 1} needs more memory than {self._device} has, for "
                    f"{len(mine)} videos of up to {mine.num_frames.max(initial=0)} frames; lower it, raise "
                    f"train.accumulation, or take train.precision=bfloat16: {str(error).splitlines()[0]}"
                ) from None
            yield self.progress.step

    def interval(self) -> dict[str, float]:
        """Returns loss, GAP, videos/s and the share of time spent waiting for input since the last call; collective.

        The GAP is that of some videos as they were trained on; none where labels are mixed. Empty without a step.
        """
        if not self._interval.num_steps:
            return {}
        mine, self._interval = self._interval, _Interval()
        elapsed = max(time.perf_counter() - mine.started, 1e-9)
        loss_sum, num_videos, wait = sum_over_workers(
            [mine.loss_sum, mine.num_videos, mine.wait_s / elapsed], self._device
        )
        # Times are those of this worker, but all take their steps together.
        metrics = {
            "train/loss": loss_sum / max(num_videos, 1),
            "train/videos_per_s": num_videos / elapsed,
            "train/input_wait_fraction": wait / world_size(),
            "train/learning_rate": self.learning_rate(),
        }
        gap = merge_over_workers(mine.gap, build_metric("gap")).compute()
        if not math.isnan(gap):
            metrics["train/gap"] = gap
        if self.progress.num_skipped:
            metrics["train/skipped_steps"] = self.progress.num_skipped
        return metrics

    def state(self, position: Position) -> dict[str, torch.Tensor]:
        """Returns everything but the weights that a continued run needs; `position` covers all workers."""
        counters = {name: value for name, value in vars(self.progress).items() if name != "position"}
        if self.ema is not None:
            counters["ema_updates"] = self.ema.num_updates
        return {
            **{f"progress.{name}": torch.tensor(value) for name, value in counters.items()},
            **{f"position.{name}": torch.from_numpy(array) for name, array in position.to_arrays().items()},
            **{f"optimizer.{name}": tensor for name, tensor in optimizer_state(self.optimizer, self._names).items()},
            **{f"batch_norm.{name}": torch.tensor(norm.num_updates) for name, norm in self._batch_norms.items()},
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> Position:
        """Continues from what `state` returned, and returns the position of its epoch."""
        position = Position.from_arrays(
            {name: tensor.numpy() for name, tensor in _section(tensors, "position").items()}
        )
        counters = {name: int(tensor) for name, tensor in _section(tensors, "progress").items()}
        ema_updates = counters.pop("ema_updates", 0)
        is_validation_due = bool(counters.pop("is_validation_due", False))
        if self.ema is not None:
            self.ema.num_updates = ema_updates
        # The reader leaves out the records that are done, and the merge of the workers' positions adds them once.
        self.progress = Progress(**counters, is_validation_due=is_validation_due, position=Position(position.epoch))
        # A checkpoint may be older than these counters; its steps are as many as its updates.
        if self._config.train.warm_up_batch_norm:
            num_updates = _section(tensors, "batch_norm")
            for name, norm in self._batch_norms.items():
                norm.set_num_updates(int(num_updates.get(name, tensors["progress.step"])))
        load_optimizer_state(self.optimizer, self._names, _section(tensors, "optimizer"), self._config.optimizer)
        return position

    def _step(self, mine: PackedVideos, total: int) -> None:
        config = self._config
        update = self.progress.step + 1 - self.progress.num_skipped
        prepare_step(self.optimizer, config.optimizer, step=update, rate=self.learning_rate())
        self.optimizer.zero_grad(set_to_none=True)
        # A forward pass changes the statistics of batch norm, before it is known whether its loss is finite.
        kept = self._buffers() if config.train.on_nonfinite == "skip" else {}
        loss, logits, labels = self._backward(mine, total)
        is_finite = clip_gradients(self._names, config.optimizer) & torch.isfinite(loss).to(self._device)
        mean_loss = float(loss) / max(len(mine), 1)
        if sum_over_workers([float(not bool(is_finite))], self._device)[0]:
            self._leave_out(mine, mean_loss, kept)
        else:
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
            self._score(logits, labels)
            self._skipped_in_a_row = 0
            self._last_finite = f"{self.progress.step + 1} (loss {mean_loss:.6g})"
        self._count(mine, total, mean_loss)

    def _backward(self, mine: PackedVideos, total: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Adds up the gradients; returns (sum of losses, logits and labels of the last part's labelled videos)."""
        config, num_parts = self._config, self._config.train.accumulation
        loss_sum = torch.zeros((), device=self._device)
        is_sum = config.optimizer.gradient_reduction == "sum"
        num_summed = len(mine) if is_sum else total
        # A part without videos is computed too: workers that synchronise batch norm wait for one another.
        for number, rows in enumerate(np.array_split(np.arange(len(mine)), num_parts)):
            is_last = number == num_parts - 1
            videos = mine if num_parts == 1 else mine.select(rows)
            with contextlib.ExitStack() as stack:
                # Gradients are averaged over workers once a step, in its last part.
                if not is_last and isinstance(self._objective, DistributedDataParallel):
                    stack.enter_context(self._objective.no_sync())
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bfloat16):
                    batch, targets = self._teachers.prepare(videos, config, self._device, total=num_summed)
                    loss, logits = self._objective(batch.frames, batch.num_frames, batch.labels, targets)
                # The step follows the mean over the `total` videos of all workers. DDP averages gradients over workers,
                # and `loss` is a mean over n videos of this one: sum (n / total * W * loss) / W over all parts and
                # workers is that mean, also where n differs or is 0. The penalty is the same on all workers, so
                # averaging leaves it alone. The published towers add their means and penalties up instead.
                share = len(videos) / max(len(mine), 1) if is_sum else len(videos) / total
                part_loss = loss * (share * world_size())
                if is_last and config.train.regularization_penalty:
                    penalty = config.train.regularization_penalty * (world_size() if is_sum else 1)
                    part_loss = part_loss + penalty * self._regularization()
                part_loss.backward()
            loss_sum += loss.detach() * len(videos)
        labels = batch.labels
        assert labels is not None
        if not videos.is_labelled.all():
            known = torch.from_numpy(videos.is_labelled).to(labels.device)
            logits, labels = logits[known], labels[known]
        return loss_sum, logits, labels

    def _score(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        # Mixed labels have no GAP.
        every = max(self._config.train.log_every_steps // _SCORED_STEPS, 1)
        if self._config.augmentation.mixup_alpha or (self.progress.step + 1) % every:
            return
        self._interval.gap.update(torch.sigmoid(logits[:_SCORED_ROWS].float()), labels[:_SCORED_ROWS])

    def _buffers(self) -> dict[torch.Tensor, torch.Tensor]:
        models = [model for model in (self.model, self.teacher) if model is not None]
        return {buffer: buffer.clone() for model in models for buffer in model.buffers()}

    def _leave_out(self, mine: PackedVideos, loss: float, kept: Mapping[torch.Tensor, torch.Tensor]) -> None:
        """Leaves the step out, or raises, on all workers alike; at least one has something that is not finite."""
        step = self.progress.step + 1
        whose = gather(_describe(mine, loss))
        # Where every loss is finite, it is a gradient that is not, of whichever video.
        message = f"step {step}: {'; '.join(text for is_culprit, text in whose if is_culprit) or whose[0][1]}"
        self._skipped_in_a_row += 1
        if self._config.train.on_nonfinite == "stop" or self._skipped_in_a_row > _MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f"{message}; the last finite step was {self._last_finite}; lower optimizer.learning_rate, look at "
                "these videos, or leave such steps out by train.on_nonfinite=skip"
            )
        logger.warning("%s; left out", message)
        for buffer, copy in kept.items():
            buffer.copy_(copy)
        self.progress.num_skipped += 1

    def _count(self, mine: PackedVideos, total: int, loss: float) -> None:
        self.progress.step += 1
        self.progress.num_examples += total
        self.progress.num_examples_in_epoch += total
        self._interval.num_steps += 1
        # Videos of a step that was left out are done too; a loss that is not finite is in no mean.
        if len(mine):
            self.progress.position.add(mine.shards, mine.records)
            if math.isfinite(loss):
                self._interval.num_videos += len(mine)
                self._interval.loss_sum += loss * len(mine)


def _describe(mine: PackedVideos, loss: float) -> tuple[bool, str]:
    """Returns (whether this worker's loss is not finite, what of its part of the step is not, and in which videos)."""
    ids = [str(name) for name in mine.video_ids]
    first_ids = ", ".join(ids[:_NAMED_VIDEOS]) + (f" and {len(ids) - _NAMED_VIDEOS} more" * (len(ids) > _NAMED_VIDEOS))
    if math.isfinite(loss):
        return False, f"a gradient is not finite, the loss is {loss:.6g} on videos {first_ids}"
    is_finite, ends = np.isfinite(mine.frames).all(axis=1), np.cumsum(mine.num_frames)
    rows = zip(ids, ends - mine.num_frames, ends, strict=True)
    spoilt = [name for name, start, end in rows if not is_finite[start:end].all()]
    if spoilt:
        return True, f"the loss is {loss}: values that are not finite in videos {', '.join(spoilt[:_NAMED_VIDEOS])}"
    return True, f"the loss is {loss} on videos {first_ids}"


def _section(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
