"""The learning-rate range test (arXiv:1506.01186): steps at a rate that rises until the loss diverges. Without Ray."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from yt8m_ray.config.document import override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.batches import batches_of, prefetch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_position import epoch_order
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.errors import ConfigError
from yt8m_ray.reporting.pictures import BLUE, GREY, label_axes, save_picture
from yt8m_ray.training.steps.build_loop import build_loop
from yt8m_ray.training.steps.loop import TrainingLoop

logger = logging.getLogger(__name__)

TABLE_FILE = "learning_rate.csv"
PICTURE_FILE = "learning_rate.png"

# Share of the smoothed loss that stays at each step.
_SMOOTHING = 0.9
# The test ends where the smoothed loss is this many times its lowest.
_DIVERGED = 4.0
_LEAST_STEPS = 10
# The first smoothed losses are too few to have a slope.
_SETTLING_STEPS = 5
_MARKS = {"steepest_descent": "#c5221f", "tenth_of_minimum": "#188038"}


class RatePoint(NamedTuple):
    """One step of the test: its rate, and the loss of its batch before it."""

    step: int
    learning_rate: float
    loss: float
    smoothed_loss: float


@dataclass(frozen=True)
class RateRange:
    """The rates of a test, from `min` at its first step to `max` at its last, each a constant factor above another."""

    min: float = 1e-6
    max: float = 1.0
    steps: int = 200
    # Steps before the test, at the run's own rate. A model that begins with a score of one half for thousands of
    # classes first learns, at any rate, how rare they are; the test says more after that.
    warm_up: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min < self.max:
            raise ConfigError(f"min, max: expected 0 < min < max, found {self.min:g} and {self.max:g}")
        if self.steps < _LEAST_STEPS:
            raise ConfigError(f"steps: expected at least {_LEAST_STEPS}, found {self.steps}")
        if self.warm_up < 0:
            raise ConfigError(f"warm_up: expected at least 0, found {self.warm_up}")

    def at(self, step: int) -> float:
        """Returns the rate of a step of the test, from 0."""
        return float(self.min * (self.max / self.min) ** (step / (self.steps - 1)))


def find_learning_rate(
    config: TrainConfig, shards: Sequence[str], rates: RateRange, folder: str | Path, *, device: torch.device
) -> dict[str, Any]:
    """Tests `rates` on the run that `config` describes; writes a table and a picture into `folder`.

    The schedule is left out, factors of the rate by parameter are kept; the shards are read as often as needed.

    Returns:
        steepest_descent: The rate at which the smoothed loss falls fastest.
        tenth_of_minimum: A tenth of the rate at which it is lowest; as a rule a good base rate.
        diverged_at: The rate at which the test ended before its last step, else None.
        num_steps, table, picture: The steps taken, and the files.

    Raises:
        ValueError, OSError: a shard cannot be read, or the first steps diverge already.
    """
    points = list(run_rates(config, shards, rates, device=device))
    num_steps = len(points)
    if num_steps < _LEAST_STEPS:
        raise ValueError(
            f"min: the loss diverges after {num_steps} steps already, at {rates.at(num_steps):g}; begin lower"
        )
    suggestion = suggest(points)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table, picture = folder.absolute() / TABLE_FILE, folder.absolute() / PICTURE_FILE
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([RatePoint._fields, *points])
    _draw(picture, points, suggestion, title=config.run.name)
    is_whole = num_steps == rates.steps and not _has_diverged(points)
    if is_whole and points[-1].smoothed_loss == min(point.smoothed_loss for point in points):
        logger.warning("max: the loss still falls at %g; its minimum lies beyond", rates.max)
    return {
        **suggestion,
        "diverged_at": None if is_whole else rates.at(min(num_steps, rates.steps - 1)),
        "num_steps": num_steps,
        "table": str(table),
        "picture": str(picture),
    }


def run_rates(
    config: TrainConfig, shards: Sequence[str], rates: RateRange, *, device: torch.device
) -> Iterator[RatePoint]:
    """Yields the points of the test until its last step, or until the loss diverges."""
    own_rate, num_before = config.optimizer.learning_rate, rates.warm_up
    config = override(config, _constant_rate(config, num_before + rates.steps))
    loop, _ = build_loop(config, device=device, shards=shards)

    def set_rates(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # After `prepare_step`, which has set each group to its factor of the base rate 1.
        for group in optimizer.param_groups:
            step = loop.progress.step - num_before
            group["lr"] *= rates.at(step) if step >= 0 else own_rate

    loop.optimizer.register_step_pre_hook(set_rates)
    smoothed, points = 0.0, []
    for whole_step in _steps(loop, shards, config, pin_memory=device.type == "cuda"):
        loss, step = loop.interval()["train/loss"], whole_step - num_before
        if step < 1:
            continue
        smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
        # Divided by the weights of so many losses, whose sum is below 1 at first: the average begins at 0.
        points.append(RatePoint(step, rates.at(step - 1), loss, smoothed / (1 - _SMOOTHING**step)))
        yield points[-1]
        if _has_diverged(points):
            return


def suggest(points: Sequence[RatePoint]) -> dict[str, float]:
    """Returns the rates `steepest_descent` and `tenth_of_minimum` of the smoothed loss; see `find_learning_rate`."""
    rates = np.array([point.learning_rate for point in points])
    losses = np.array([point.smoothed_loss for point in points])
    slopes = np.gradient(losses, np.log(rates))
    lowest = int(losses.argmin())
    # After its minimum the loss may fall again, from heights where nothing is learned.
    before = slopes[_SETTLING_STEPS : max(lowest, _SETTLING_STEPS) + 1]
    return {
        "steepest_descent": float(f"{rates[_SETTLING_STEPS + before.argmin()]:.3g}"),
        "tenth_of_minimum": float(f"{rates[lowest] / 10:.3g}"),
    }


def _constant_rate(config: TrainConfig, num_steps: int) -> dict[str, Any]:
    # Every schedule is the constant 1, and the run as long as the test.
    defaults = type(config.optimizer)().model_dump(mode="json")
    keys = ("schedule", "warm_up_examples", "schedule_examples", "final_fraction", "cycle_examples", "decay_examples")
    return {f"optimizer.{key}": defaults[key] for key in keys} | {
        "optimizer.learning_rate": 1.0,
        "optimizer.decay_factor": 1.0,
        "train.max_steps": num_steps,
        "train.num_epochs": num_steps,
        "train.on_nonfinite": "stop",
    }


def _steps(loop: TrainingLoop, shards: Sequence[str], config: TrainConfig, *, pin_memory: bool) -> Iterator[int]:
    # Over as many passes as the run has; a loss that is not finite is the end of the test, not a failure.
    while not loop.is_finished:
        epoch, before = loop.progress.position.epoch, loop.progress.step
        batches = batches_of(
            _read(shards, config, epoch),
            batch_size=config.train.batch_size,
            shuffle_window=config.data.shuffle_window,
            seed=(config.run.seed, epoch),
            pin_memory=pin_memory,
        )
        try:
            yield from loop.steps(prefetch(batches))
        except FloatingPointError as error:
            logger.info("%s", error)
            return
        if loop.progress.step == before:
            raise ValueError("data.train: the shards hold no video to learn from")
        loop.progress.position.start_epoch(epoch + 1)


def _read(shards: Sequence[str], config: TrainConfig, epoch: int) -> Iterator[PackedVideos]:
    for shard in epoch_order(len(shards), seed=config.run.seed, epoch=epoch):
        for block in read_blocks(shards[shard], config.data.spec, config.read_options("train"), shard=shard):
            yield block.videos


def _has_diverged(points: Sequence[RatePoint]) -> bool:
    lowest = min(point.smoothed_loss for point in points)
    return not math.isfinite(points[-1].smoothed_loss) or points[-1].smoothed_loss > _DIVERGED * lowest


def _draw(path: Path, points: Sequence[RatePoint], suggestion: dict[str, float], *, title: str) -> None:
    rates = [point.learning_rate for point in points]
    smoothed = [point.smoothed_loss for point in points]
    lowest, highest = min(smoothed), max(smoothed[: np.argmin(smoothed) + 1])
    margin = 0.05 * (highest - lowest) or 1.0

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.semilogx(rates, [point.loss for point in points], color=GREY, linewidth=0.8, label="loss of each batch")
        axes.semilogx(rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
        for name, rate in suggestion.items():
            axes.axvline(rate, color=_MARKS[name], linestyle="--", label=f"{name.replace('_', ' ')}: {rate:.2g}")
        # The divergence leaves the picture.
        axes.set_ylim(lowest - margin, highest + 4 * margin)
        axes.legend(frameon=False)
        label_axes(axes, title=title, subtitle="learning-rate range test", x="learning rate", y="loss")

    save_picture(path, draw)
