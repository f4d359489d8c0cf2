"""The training loop: batches in, optimizer steps out. Torch only; one process or many.

Every worker takes the same number of steps. A worker without videos left takes part with an empty batch, until no
worker has any; so nothing is dropped and nobody waits for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import to_batch
from yt8m_ray.data.features import FeatureSpec
from yt8m_ray.data.packed import PackedVideos
from yt8m_ray.data.position import Position
from yt8m_ray.models import Model
from yt8m_ray.models.layers import set_batch_norm_updates
from yt8m_ray.training.optim import (
    build_optimizer,
    clip_each_gradient,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
    prepare_step,
)
from yt8m_ray.training.workers import sum_over_workers, world_size


@dataclass
class Progress:
    """How far a run is, the same on all workers except for the consumed records, of which each has its own.

    Attributes:
        step: Optimizer steps done.
        num_examples: Videos trained on over all epochs; sets the learning rate.
        num_examples_in_epoch: Videos trained on in the current epoch.
        position: Epoch, and the records of it that are done.
    """

    step: int = 0
    num_examples: int = 0
    num_examples_in_epoch: int = 0
    position: Position = field(default_factory=Position)


@dataclass
class _Interval:
    """Sums since the last report, of this worker."""

    started: float = field(default_factory=time.perf_counter)
    num_steps: int = 0
    num_videos: int = 0
    loss_sum: float = 0.0
    wait_s: float = 0.0


class Objective(torch.nn.Module):
    """A batch to the loss of a model; a module, so that DistributedDataParallel can wrap all that a step computes."""

    def __init__(self, model: Model, criterion: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the mean loss over the batch."""
        return self.model.loss(frames, num_frames, labels, self.criterion)


class TrainingLoop:
    """Steps of one run.

    Args:
        model: The model on its device.
        objective: What computes its loss: an `Objective`, or the same wrapped in DistributedDataParallel.
        config: The run.
        spec: The features of the videos.
        device: Where the model is.
        progress: Where to continue.
        should_stop: Whether the run is to stop; one worker that is told so is enough.

    Attributes:
        is_stopped: Whether the steps ended because of that, the same on all workers.
    """

    def __init__(
        self,
        model: Model,
        objective: torch.nn.Module,
        config: TrainConfig,
        *,
        spec: FeatureSpec,
        device: torch.device,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.is_stopped = False
        self._should_stop = should_stop
        self.progress = progress or Progress()
        self._objective = objective
        self._config = config
        self._device = device
        self._spec = spec
        self._nothing = PackedVideos.from_rows([], spec)
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = build_optimizer(model.parameters(), config.optimizer)
        self._interval = _Interval()
        if not config.train.warm_up_batch_norm:
            set_batch_norm_updates(model)

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its number of epochs or steps."""
        return self._config.train.is_reached(epoch=self.progress.position.epoch, step=self.progress.step)

    def steps(self, videos: Iterator[PackedVideos]) -> Iterator[int]:
        """Takes a step for each batch, yielding the step's number, until all workers are out of videos or to stop."""
        self.model.train()
        while not (self.is_finished or self.is_stopped):
            started = time.perf_counter()
            mine = next(videos, self._nothing)
            self._interval.wait_s += time.perf_counter() - started
            total, num_stops = sum_over_workers([len(mine), self._should_stop()], self._device)
            if not total:
                return
            self._step(mine, int(total))
            self.is_stopped = num_stops > 0  # behind the step: no batch was taken for nothing
            yield self.progress.step

    def interval(self) -> dict[str, float]:
        """Returns loss, videos/s and the share of time spent waiting for input since the last call; collective.

        Without a step since then it returns nothing.
        """
        if not self._interval.num_steps:
            return {}
        mine, self._interval = self._interval, _Interval()
        elapsed = max(time.perf_counter() - mine.started, 1e-9)
        loss_sum, num_videos, wait = sum_over_workers(
            [mine.loss_sum, mine.num_videos, mine.wait_s / elapsed], self._device
        )
        return {
            "train/loss": loss_sum / max(num_videos, 1),
            "train/videos_per_s": num_videos / elapsed,
            "train/input_wait_fraction": wait / world_size(),
            "train/learning_rate": learning_rate(self._config.optimizer, self.progress.num_examples),
        }

    def state(self, position: Position) -> dict[str, torch.Tensor]:
        """Returns everything but the weights that a continued run needs; `position` covers all workers."""
        counters = {
            "step": self.progress.step,
            "num_examples": self.progress.num_examples,
            "num_examples_in_epoch": self.progress.num_examples_in_epoch,
        }
        return {
            **{f"progress.{name}": torch.tensor(value) for name, value in counters.items()},
            **{f"position.{name}": torch.from_numpy(array) for name, array in position.to_arrays().items()},
            **{f"optimizer.{name}": tensor for name, tensor in optimizer_state(self._optimizer, self._names).items()},
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continues from what `state` returned. The position's records stay with the reader, not with this worker."""
        position = Position.from_arrays(
            {name: tensor.numpy() for name, tensor in _section(tensors, "position").items()}
        )
        counters = {name: int(tensor) for name, tensor in _section(tensors, "progress").items()}
        self.progress = Progress(**counters, position=Position(position.epoch))
        if self._config.train.warm_up_batch_norm:
            set_batch_norm_updates(self.model, self.progress.step)
        load_optimizer_state(self._optimizer, self._names, _section(tensors, "optimizer"))

    def _step(self, mine: PackedVideos, total: int) -> None:
        config = self._config
        batch = to_batch(mine, spec=self._spec, normalize=config.data.normalize, device=self._device)
        assert batch.labels is not None
        prepare_step(
            self._optimizer, config.optimizer, step=self.progress.step + 1, num_examples=self.progress.num_examples
        )
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=config.train.precision == "bfloat16"):
            loss = self._objective(batch.frames, batch.num_frames, batch.labels)
        # The step follows the mean over the `total` videos of all workers. DDP averages gradients over workers, and
        # `loss` is a mean over this worker's videos: sum_w (n_w / total * W * loss_w) / W is that mean, also where the
        # workers' n_w differ or are 0. The penalty is the same on all workers, so averaging leaves it alone.
        total_loss = loss * (len(mine) * world_size() / total)
        if config.train.regularization_penalty:
            total_loss = total_loss + config.train.regularization_penalty * self.model.regularization()
        total_loss.backward()
        clip_each_gradient(self._names, config.optimizer.clip_gradient_norm)
        self._optimizer.step()
        self._count(mine, total, float(loss.detach()))

    def _count(self, mine: PackedVideos, total: int, loss: float) -> None:
        self.progress.step += 1
        self.progress.num_examples += total
        self.progress.num_examples_in_epoch += total
        self._interval.num_steps += 1
        if len(mine):
            self.progress.position.add(mine.shards, mine.records)
            self._interval.num_videos += len(mine)
            self._interval.loss_sum += loss * len(mine)
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"step {self.progress.step}: the loss is {loss} on videos {', '.join(map(str, mine.video_ids[:8]))}"
                    "; lower optimizer.learning_rate, or look at these videos"
                )


def _section(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
