"""Runs of video-level recipes in memory, several at a time: what `recipe_search.py` asks for, one task after the other.

The loop is that of `yt8m train`; what it does not do here is to read shards again in every epoch and to write
checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.batches import batches_of, to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.losses import build_loss
from yt8m_ray.metrics import build_metric, update_all
from yt8m_ray.models import build_model
from yt8m_ray.schema import Batch
from yt8m_ray.training.steps.ema import MovingAverage
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.objective import Objective, TeacherTargets
from yt8m_ray.training.steps.optimizer import run_examples
from yt8m_ray.training.steps.teachers import TeacherOutputs

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "train"
METRICS = ("gap", "hit_at_1", "perr", "mean_ap")
EVALUATION_BATCH = 1024

Scores = dict[str, float]


@dataclass(frozen=True)
class Task:
    """A run.

    Attributes:
        name: Of the recipe.
        config: A file of `configs/train`, without `.yaml`.
        changes: `section.key=value` strings.
        seed: Of the run.
        train: Numbers of the shards to train on.
        evaluate: Numbers of the shards to score.
        averages: Half-lives in steps of moving averages that are scored besides, with warm-up.
        keep: Where the scores of the videos of `evaluate` go, one file for the weights and one for each average.
        soft_labels: A file with a teacher's scores of all videos, float16 [N, C].
    """

    name: str
    config: str
    changes: tuple[str, ...]
    seed: int
    train: tuple[int, ...]
    evaluate: tuple[int, ...]
    averages: tuple[float, ...] = ()
    keep: str | None = None
    soft_labels: str | None = None


@dataclass(frozen=True)
class Shards:
    """Videos of shards in memory, in the order of their records.

    Attributes:
        videos: All of them.
        first: Row of each shard's first video.
    """

    videos: PackedVideos
    first: np.ndarray

    @classmethod
    def read(cls, paths: Sequence[str], spec: FeatureSpec) -> Shards:
        """Returns what the shards hold, numbered in the order of `paths`."""
        blocks = [
            block.videos
            for number, path in enumerate(paths)
            for block in read_blocks(path, spec, ReadOptions(), shard=number)
            if len(block.videos)
        ]
        videos = PackedVideos.concatenate(blocks)
        return cls(videos, np.searchsorted(videos.shards, np.arange(len(paths))))

    def rows(self, numbers: Iterable[int]) -> np.ndarray:
        """Returns the rows of the shards of these numbers."""
        return np.flatnonzero(np.isin(self.videos.shards, list(numbers)))

    def rows_of(self, videos: PackedVideos) -> np.ndarray:
        """Returns the rows of some of the videos."""
        rows: np.ndarray = self.first[videos.shards] + videos.records
        return rows


@dataclass(frozen=True)
class RememberedScores(TeacherOutputs):
    """A teacher's scores of all videos, in the device's memory."""

    shards: Shards | None = None
    scores: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def prepare(
        self, videos: PackedVideos, config: TrainConfig, device: torch.device, *, total: int
    ) -> tuple[Batch, TeacherTargets]:
        assert self.shards is not None
        batch, targets = super().prepare(videos, config, device, total=total)
        rows = torch.from_numpy(self.shards.rows_of(videos)).to(device)
        return batch, dataclasses.replace(targets, soft_labels=self.scores[rows].float())


def config_of(task: Task, num_videos: int) -> TrainConfig:
    """Returns the run's config; its staircase falls once an epoch of so many videos, where it is one."""
    path = str(CONFIGS / f"{task.config}.yaml")
    config = load_document(path, TrainConfig, [*task.changes, f"run.seed={task.seed}"])
    if config.optimizer.schedule != "staircase":
        return config
    optimizer = config.optimizer.model_copy(update={"decay_examples": num_videos})
    return config.model_copy(update={"optimizer": optimizer})


def run(task: Task, shards: Shards, device: torch.device) -> dict[str, Any]:
    """Trains, and returns GAP and the other metrics by epoch, of the weights and of each average."""
    started = time.perf_counter()
    train = shards.videos.select(shards.rows(task.train))
    held_out = shards.videos.select(shards.rows(task.evaluate))
    config = config_of(task, len(train))
    torch.manual_seed(config.run.seed)
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    objective = Objective(model, build_loss(config.loss), distillation=config.distillation).to(device)
    teacher_outputs = TeacherOutputs()
    if task.soft_labels is not None:
        scores = torch.from_numpy(np.load(task.soft_labels)).to(device)
        teacher_outputs = RememberedScores(shards=shards, scores=scores)
    loop = TrainingLoop(
        objective,
        config,
        device=device,
        run_examples=run_examples(config, len(train)),
        teacher_outputs=teacher_outputs,
    )
    averages = {f"{steps:g}": MovingAverage(model, decay=0.5 ** (1 / steps), warm_up=True) for steps in task.averages}
    models: dict[str, torch.nn.Module] = {"": model} | {name: mean.average for name, mean in averages.items()}
    if loop.ema is not None:
        models["ema"] = loop.ema.average
    curves: dict[str, list[Scores]] = {name: [] for name in models}
    for epoch in range(config.train.num_epochs):
        for _ in loop.steps(_batches(train, config, epoch, device)):
            for mean in averages.values():
                mean.update()
        loop.progress.position.start_epoch(epoch + 1)
        loop.interval()
        is_last = epoch == config.train.num_epochs - 1
        for name, scored in models.items():
            probabilities = probabilities_of(scored, held_out, config, device)
            curves[name].append(metrics_of(probabilities, held_out, config.data.num_classes))
            if is_last and task.keep is not None:
                np.save(kept_path(task.keep, task.name, task.seed, name), probabilities.astype(np.float16))
    return {
        "name": task.name,
        "config": task.config,
        "changes": list(task.changes),
        "seed": task.seed,
        "seconds": time.perf_counter() - started,
        "curves": curves,
    }


def _batches(videos: PackedVideos, config: TrainConfig, epoch: int, device: torch.device) -> Iterator[PackedVideos]:
    return batches_of(
        [videos],
        batch_size=config.train.batch_size,
        shuffle_window=1 << 20,
        seed=(config.run.seed, epoch),
        pin_memory=device.type == "cuda",
    )


def kept_path(folder: str, name: str, seed: int, average: str = "") -> Path:
    """Returns where the scores of a run are kept."""
    return Path(folder) / f"{name}-{seed}{f'-{average}' * bool(average)}.npy"


def probabilities_of(
    model: torch.nn.Module, videos: PackedVideos, config: TrainConfig, device: torch.device
) -> np.ndarray:
    """Returns a model's scores float32 [N, C]."""
    was_training = model.training
    model.eval()
    parts = []
    with torch.inference_mode():
        for part in batches_of([videos], batch_size=EVALUATION_BATCH):
            batch = to_batch(part, spec=config.data.spec, normalize=config.data.normalize, device=device)
            parts.append(torch.sigmoid(model(batch.frames, batch.num_frames).float()).cpu())
    model.train(was_training)
    return torch.cat(parts).numpy()


def metrics_of(probabilities: np.ndarray, videos: PackedVideos, num_classes: int) -> Scores:
    """Returns GAP, Hit@1, PERR and mAP of scores [N, C]."""
    metrics = {name: build_metric(name) for name in METRICS}
    labels = np.zeros((len(videos), num_classes), np.float32)
    labels[np.repeat(np.arange(len(videos)), videos.num_labels), videos.labels] = 1
    for start in range(0, len(videos), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        update_all(
            metrics.values(), torch.from_numpy(probabilities[rows].astype(np.float32)), torch.from_numpy(labels[rows])
        )
    return {name: float(metric.compute()) for name, metric in metrics.items()}


_SHARED: dict[str, Any] = {}
"""What forked processes find in their memory."""


def run_all(tasks: Sequence[Task], shards: Shards, *, device: str, num_processes: int) -> Iterator[dict[str, Any]]:
    """Yields the result of each task as it is there; so many run at a time, on one device."""
    if num_processes == 1:
        yield from (run(task, shards, torch.device(device)) for task in tasks)
        return
    _SHARED.update(shards=shards, device=device)
    # Forked: the shards are read once. A GPU may be touched after the fork alone.
    with multiprocessing.get_context("fork").Pool(
        num_processes, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.imap_unordered(_run_shared, tasks, chunksize=1)


def _run_shared(task: Task) -> dict[str, Any]:
    try:
        return run(task, _SHARED["shards"], torch.device(_SHARED["device"]))
    except (ValueError, FloatingPointError, RuntimeError) as error:
        print(f"{task.name}, seed {task.seed}: {error}", file=sys.stderr, flush=True)
        return {"name": task.name, "seed": task.seed, "error": str(error)}


def summary(results: Sequence[Scores]) -> Mapping[str, tuple[float, float]]:
    """Returns mean and standard deviation of each metric."""
    return {
        name: (
            float(np.mean([scores[name] for scores in results])),
            float(np.std([scores[name] for scores in results], ddof=1)) if len(results) > 1 else math.nan,
        )
        for name in METRICS
    }
