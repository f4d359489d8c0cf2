"""What training recipes reach on video-level shards: mean and spread over seeds, ensembles of the seeds, distillation.

    python tests/benchmarks/recipes.py --data DIR [--recipes moe2,moe4] [--seeds 3] [--held-out] [key=value ...]

DIR holds train/ and validate/ (`v2_video` of YouTube-8M). `--held-out` is to choose by: the training shards whose index
modulo 4 is `--fold` (0) are scored, the others trained on; without it all are trained on and validate/ is scored.
Overrides apply to every recipe. A run is `jobs.train`'s loop in this process without Ray, on videos that lie on the
device whole, as one row each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, its folder is what Python looks in

from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import batches_of
from yt8m_ray.data.features import FeatureSpec
from yt8m_ray.data.normalize import normalize
from yt8m_ray.data.packed import PackedVideos
from yt8m_ray.data.reader import read_blocks
from yt8m_ray.evaluation import evaluate
from yt8m_ray.inference.ensemble import Ensemble
from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model
from yt8m_ray.schema import Batch
from yt8m_ray.training.assembly import build_loop
from yt8m_ray.training.augmentation import augment
from yt8m_ray.training.objective import Lesson
from yt8m_ray.training.teaching import Supplies

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"
EVALUATION_BATCH = 1024
FOLDS = 4
METRICS = ("gap", "hit_at_1", "perr", "mean_ap", "seconds")


@dataclass(frozen=True)
class Recipe:
    """A config under configs/train with changes.

    Attributes:
        config: Its file's stem.
        overrides: As on a command line.
        teacher: Another recipe, trained before: the ensemble of its seeds gives the soft labels, which the run's
            `distillation.weight` and `distillation.temperature` say how to use.
    """

    config: str
    overrides: tuple[str, ...] = ()
    teacher: str | None = None

    def with_overrides(self, *overrides: str, teacher: str | None = None) -> Recipe:
        """Returns the recipe with more changes."""
        return replace(self, overrides=(*self.overrides, *overrides), teacher=teacher)


LOGISTIC = Recipe(
    "logistic_video",
    (
        "data.normalize=unwhitened",
        "model.l2=0.0",
        "optimizer.learning_rate=0.04",
        "optimizer.decay_factor=0.8",
        "optimizer.decay_examples=18654",
        "train.batch_size=64",
        "train.num_epochs=5",
    ),
)
MOE = Recipe("moe_video")
CHAIN = Recipe(
    "deep_combine_chain",
    (
        "data.normalize=unwhitened",
        "model.num_layers=2",
        "optimizer.decay_factor=0.8",
        "optimizer.decay_examples=18654",
        "train.batch_size=128",
        "train.num_epochs=6",
    ),
)
EMA = ("ema.half_life_steps=300", "ema.warm_up=true")
RECIPES: dict[str, Recipe] = {
    "logistic_starter": Recipe("logistic_video"),
    "logistic": LOGISTIC,
    "logistic+ema": LOGISTIC.with_overrides(*EMA),
    "moe2": MOE,
    "moe2+ema": MOE.with_overrides(*EMA),
    "moe2+mixup": MOE.with_overrides("augmentation.mixup_alpha=0.4"),
    "moe2+distilled": MOE.with_overrides(teacher="moe2"),
    "moe4": MOE.with_overrides("model.num_mixtures=4"),
    "moe4+ema": MOE.with_overrides("model.num_mixtures=4", *EMA),
    "chain_published": Recipe("deep_combine_chain"),
    "chain": CHAIN,
    "chain+ema": CHAIN.with_overrides(*EMA),
}


class ResidentSplit:
    """Video-level videos on a device: one row each, read once.

    Attributes:
        index: The videos without their frames, as the training loop counts them; `records` are rows.
    """

    def __init__(self, videos: PackedVideos, spec: FeatureSpec, device: torch.device) -> None:
        count = len(videos)
        assert int(videos.num_frames.min()) == int(videos.num_frames.max()) == 1, "video-level shards are expected"
        self.index = replace(
            videos,
            shards=np.zeros(count, np.int32),
            records=np.arange(count, dtype=np.int32),
            frames=np.zeros((count, 1), np.float32),  # any: the real ones are on the device
        )
        self._device, self._spec = device, spec
        self._stored = torch.from_numpy(np.array(videos.frames, np.float32)).to(device)
        self._normalized: dict[str, torch.Tensor] = {}
        self._num_frames = torch.ones(count, dtype=torch.int64, device=device)
        rows = torch.from_numpy(np.repeat(np.arange(count), videos.num_labels)).to(device)
        class_ids = torch.from_numpy(videos.labels.astype(np.int64)).to(device)
        self._labels = torch.zeros(count, spec.num_classes, dtype=torch.bool, device=device)
        self._labels[rows, class_ids] = True

    def __len__(self) -> int:
        return len(self.index)

    def frames(self, kind: Any) -> torch.Tensor:
        """Returns all rows [N, 1, D], normalized as asked; once for each kind."""
        if kind not in self._normalized:
            flat = self._stored.clone()
            normalize(flat, self._spec.sizes, kind)
            self._normalized[kind] = flat.unsqueeze(1)
        return self._normalized[kind]

    def batch(self, rows: np.ndarray, kind: Any, soft_labels: torch.Tensor | None = None) -> Batch:
        """Returns these rows as a batch."""
        taken = torch.from_numpy(rows.astype(np.int64)).to(self._device, non_blocking=True)
        soft = None if soft_labels is None else soft_labels[taken].float()
        ids = tuple(self.index.video_ids[rows])
        return Batch(self.frames(kind)[taken], self._num_frames[taken], self._labels[taken].float(), ids, soft)

    def batches(self, kind: Any) -> Iterator[Batch]:
        """Yields all rows in order."""
        for start in range(0, len(self), EVALUATION_BATCH):
            yield self.batch(np.arange(start, min(start + EVALUATION_BATCH, len(self))), kind)


@dataclass(frozen=True)
class ResidentSupplies(Supplies):
    """Batches of rows that are on the device already.

    Attributes:
        split: Where from.
        taught: A teacher's scores [N, C] for all of its rows, if there is one.
    """

    split: ResidentSplit | None = None
    taught: torch.Tensor | None = None

    def prepare(
        self, videos: PackedVideos, config: TrainConfig, spec: FeatureSpec, device: torch.device, *, total: int
    ) -> tuple[Batch, Lesson]:
        assert (
            self.split is not None and spec == config.data.spec and device.type == self.split.frames("l2").device.type
        )
        batch = augment(self.split.batch(videos.records, config.data.normalize, self.taught), config.augmentation)
        return batch, Lesson(batch.soft_labels, batch.weights, num_videos=total)


def read_split(paths: Sequence[Path], spec: FeatureSpec, device: torch.device) -> ResidentSplit:
    """Returns the videos of shards."""
    blocks = [block.videos for path in paths for block in read_blocks(str(path), spec)]
    return ResidentSplit(PackedVideos.concatenate([block for block in blocks if len(block)]), spec, device)


def split_paths(folder: Path, held_out: int | None) -> tuple[list[Path], list[Path]]:
    """Returns the shards to train on and those to score."""
    train = sorted((folder / "train").glob("*.tfrecord"))
    if held_out is None:
        return train, sorted((folder / "validate").glob("*.tfrecord"))
    scored = [path for index, path in enumerate(train) if index % FOLDS == held_out]
    return [path for index, path in enumerate(train) if index % FOLDS != held_out], scored


def config_of(recipe: Recipe, *, seed: int, overrides: Sequence[str] = ()) -> TrainConfig:
    """Returns the run of a recipe."""
    path = CONFIGS / f"{recipe.config}.yaml"
    return load_document(path, TrainConfig, [*recipe.overrides, *overrides, f"run.seed={seed}"])


def train(
    config: TrainConfig,
    split: ResidentSplit,
    *,
    device: torch.device,
    taught: torch.Tensor | None = None,
    scored: ResidentSplit | None = None,
) -> tuple[Model, list[float]]:
    """Returns the model that a run ends with, and its GAP on `scored` after each epoch where that is given."""
    supplies = ResidentSupplies(split=split, taught=taught)
    loop, _ = build_loop(config, device=device, num_videos=len(split), supplies=supplies)
    gaps: list[float] = []
    for epoch in range(config.train.num_epochs):
        size, seed = config.train.batch_size, (config.run.seed, epoch)
        for _ in loop.steps(batches_of([split.index], batch_size=size, shuffle_window=len(split), seed=seed)):
            pass
        loop.progress.position.start_epoch(epoch + 1)
        if scored is not None:
            gaps.append(score(loop.evaluated_model, scored, config)["gap"])
    model = loop.evaluated_model
    assert isinstance(model, Model)
    return model.eval(), gaps


def score(model: torch.nn.Module, split: ResidentSplit, config: TrainConfig) -> dict[str, float]:
    """Returns the metrics of a model."""
    return evaluate(model, split.batches(config.data.normalize), build_loss(config.loss)).compute()


@torch.inference_mode()
def soft_labels_of(model: torch.nn.Module, split: ResidentSplit, config: TrainConfig) -> torch.Tensor:
    """Returns a model's scores of all videos, float16 [N, C] on their device."""
    batches = split.batches(config.data.normalize)
    return torch.cat([torch.sigmoid(model(batch.frames, batch.num_frames).float()).half() for batch in batches])


def ensemble_of(models: Sequence[Model]) -> Ensemble:
    """Returns the models as one, which has the mean of their probabilities."""
    device = next(models[0].parameters()).device
    return Ensemble(models, [1 / len(models)] * len(models)).to(device).eval()


def run_recipe(
    recipe: Recipe,
    splits: tuple[ResidentSplit, ResidentSplit],
    options: argparse.Namespace,
    *,
    teacher: Ensemble | None = None,
) -> tuple[dict[str, Any], Ensemble]:
    """Returns the metrics of a recipe by seed and of the ensemble of its seeds, and that ensemble."""
    train_split, scored = splits
    device = torch.device(options.device)
    models, runs = [], []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        config = config_of(recipe, seed=seed, overrides=options.overrides)
        taught = None if teacher is None else soft_labels_of(teacher, train_split, config)
        started = time.perf_counter()
        model, gaps = train(
            config, train_split, device=device, taught=taught, scored=scored if options.each_epoch else None
        )
        seconds = time.perf_counter() - started
        models.append(model)
        runs.append({"seed": seed, **score(model, scored, config), "seconds": seconds, "gap_after_epochs": gaps})
    whole = ensemble_of(models)
    return {"runs": runs, "ensemble": score(whole, scored, config)}, whole


def row_of(name: str, found: dict[str, Any]) -> str:
    """Returns a line of the table."""
    columns = {metric: [run[metric] for run in found["runs"]] for metric in METRICS}
    spread = statistics.stdev(columns["gap"]) if len(columns["gap"]) > 1 else float("nan")
    means = {metric: statistics.fmean(values) for metric, values in columns.items()}
    others = " | ".join(f"{means[metric]:.4f}" for metric in METRICS[1:-1])
    return (
        f"| {name} | **{means['gap']:.4f}** | {spread:.4f} | {others} | {means['seconds']:.1f} | "
        f"{found['ensemble']['gap']:.4f} |"
    )


def in_order(names: Sequence[str]) -> list[str]:
    """Returns the recipes with the teachers that they need, each before those that learn from it."""
    ordered: list[str] = []
    for name in names:
        teacher = RECIPES[name].teacher
        ordered += [needed for needed in (teacher, name) if needed is not None and needed not in ordered]
    return ordered


def main() -> None:
    """Prints a line a recipe, and all figures as JSON."""
    parser = argparse.ArgumentParser(description="What training recipes reach on video-level shards.")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to every recipe")
    parser.add_argument("--data", required=True, type=Path, help="a folder with train/ and validate/")
    parser.add_argument("--recipes", help=f"names, separated by commas: {', '.join(RECIPES)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="score a part of the training shards, to choose by")
    parser.add_argument("--fold", type=int, default=0, choices=range(FOLDS), help="which part")
    parser.add_argument("--each-epoch", action="store_true", help="score after every epoch too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_intermixed_args()
    names = options.recipes.split(",") if options.recipes else list(RECIPES)
    if set(names) - RECIPES.keys():
        parser.error(f"--recipes: expected some of {', '.join(RECIPES)}, found {options.recipes}")
    spec = config_of(MOE, seed=0).data.spec
    sides = split_paths(options.data, options.fold if options.held_out else None)
    train_split, scored = (read_split(paths, spec, torch.device(options.device)) for paths in sides)
    print(
        f"{len(train_split)} videos of {len(sides[0])} shards, scored on {len(scored)} of {len(sides[1])}", flush=True
    )
    print("| recipe | GAP | deviation | Hit@1 | PERR | mAP | s a run | GAP of the seeds' ensemble |", flush=True)
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    figures: dict[str, Any] = {}
    ensembles: dict[str, Ensemble] = {}
    for name in in_order(names):
        teacher = RECIPES[name].teacher
        teaches = {RECIPES[later].teacher for later in names}
        figures[name], whole = run_recipe(
            RECIPES[name], (train_split, scored), options, teacher=None if teacher is None else ensembles[teacher]
        )
        if name in teaches:  # the weights of the others are not kept
            ensembles[name] = whole
        print(row_of(name, figures[name]), flush=True)
        for run in figures[name]["runs"] if options.each_epoch else ():
            print(f"    seed {run['seed']}: {', '.join(f'{gap:.4f}' for gap in run['gap_after_epochs'])}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
