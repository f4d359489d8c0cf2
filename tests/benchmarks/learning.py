"""Whether every model learns: GAP on synthetic clips with planted labels, beside the ideal and the class-prior scorer.

    python tests/benchmarks/learning.py [--models lstm,netvlad] [--num-videos 2048] [--seed 0] [--json]

Models are small, and trained as `jobs.train` trains (its loop, its batches, its normalization) in one process without
Ray. A model has learned when its GAP is at least half of the ideal scorer's and five times that of the scorer that
knows the class frequencies alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, its folder is what Python looks in

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import batches_of, to_batch
from yt8m_ray.data.packed import PackedVideos
from yt8m_ray.data.reader import ReadOptions, read_blocks
from yt8m_ray.data.synthetic import SynthesisConfig, synthesize
from yt8m_ray.evaluation import evaluate
from yt8m_ray.losses import build_loss
from yt8m_ray.metrics import build_metric
from yt8m_ray.models import MODELS, build_model
from yt8m_ray.training.loop import Objective, TrainingLoop

NUM_CLASSES = 200
CLIP_FRAMES = (8, 12)
SIGNAL = 40.0
FAST_STATISTICS = {"batch_norm_momentum": 0.1}  # the published 0.001 needs thousands of steps to forget its start

# Small sizes by the names of the fields; a model takes those that it has.
SMALL: dict[str, Any] = {
    **FAST_STATISTICS,
    "num_clusters": 32,
    "hidden_dim": 128,
    "hidden_dims": (256, 128),
    "cell_dim": 128,
    "num_channels": 32,
    "num_layers": 1,
    "relu_dim": 32,
    "groups": 4,
    "max_frames": CLIP_FRAMES[1],
    "num_blocks": 5,
    "dropout": 0.1,
}
OWN: dict[str, dict[str, Any]] = {}
LEARNING_RATES: dict[str, float] = {}


def config_of(name: str, *, num_epochs: int, seed: int) -> TrainConfig:
    """Returns the run of a small model."""
    fields = MODELS.config_type(name).model_fields
    small = {field: value for field, value in SMALL.items() if field in fields}
    document = {
        "run": {"name": name, "seed": seed},
        "data": {"features": {"rgb": 1024, "audio": 128}, "num_classes": NUM_CLASSES, "shuffle_window": 512},
        "model": {"name": name, **small, **OWN.get(name, {})},
        "optimizer": {"learning_rate": LEARNING_RATES.get(name, 0.003)},
        "train": {"batch_size": 64, "num_epochs": num_epochs},
    }
    return TrainConfig.model_validate(document)


def read_all(folder: Path, config: TrainConfig) -> list[PackedVideos]:
    """Returns the videos of a synthetic data set, in memory."""
    paths = sorted(folder.glob("*.tfrecord"))
    blocks = (
        block
        for shard, path in enumerate(paths)
        for block in read_blocks(str(path), config.data.spec, ReadOptions(), shard=shard)
    )
    return [block.videos for block in blocks if len(block.videos)]


def learn(config: TrainConfig, train: list[PackedVideos], validation: list[PackedVideos]) -> dict[str, float]:
    """Trains a model and returns its GAP on `validation` and the seconds that it took."""
    started = time.perf_counter()
    torch.manual_seed(config.run.seed)
    spec, device = config.data.spec, torch.device("cpu")
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=NUM_CLASSES)
    criterion = build_loss(config.loss)
    loop = TrainingLoop(model, Objective(model, criterion), config, spec=spec, device=device)
    for epoch in range(config.train.num_epochs):
        for _ in loop.steps(_shuffled(train, config, epoch)):
            pass
        loop.progress.position.start_epoch(epoch + 1)
    batches = (to_batch(packed, spec=spec, normalize=config.data.normalize, device=device) for packed in validation)
    return {"gap": evaluate(model, batches, criterion).compute()["gap"], "seconds": time.perf_counter() - started}


def _shuffled(videos: list[PackedVideos], config: TrainConfig, epoch: int) -> Iterator[PackedVideos]:
    return batches_of(videos, batch_size=config.train.batch_size, shuffle_window=1 << 20, seed=(config.run.seed, epoch))


def main() -> None:
    """Prints a line a model."""
    parser = argparse.ArgumentParser(description="Whether every model learns.")
    parser.add_argument("--models", help="names, separated by commas")
    parser.add_argument("--num-videos", type=int, default=2048)
    parser.add_argument("--num-epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.models.split(",") if options.models else MODELS.names()
    with tempfile.TemporaryDirectory(prefix="yt8m_learning_") as folder:
        documents = {}
        for split, count in (("train", options.num_videos), ("validate", 512)):
            config = SynthesisConfig(
                num_shards=4,
                videos_per_shard=count // 4,
                num_classes=NUM_CLASSES,
                split=split,
                signal=SIGNAL,
                min_frames=CLIP_FRAMES[0],
                max_frames=CLIP_FRAMES[1],
                seed=options.seed,
            )
            documents[split] = synthesize(config, Path(folder) / split, new_gap=lambda: build_metric("gap"))
        ideal, prior = documents["validate"]["ideal_scorer_gap"], documents["validate"]["class_prior_gap"]
        print(f"ideal {ideal:.4f}  class prior {prior:.4f}", flush=True)
        for name in names:
            config = config_of(name, num_epochs=options.num_epochs, seed=options.seed)
            splits = [read_all(Path(folder) / split, config) for split in ("train", "validate")]
            found = learn(config, *splits)
            ratios = f"{found['gap'] / ideal:5.2f} of the ideal  {found['gap'] / prior:5.1f} x the prior"
            print(f"{name:20s} GAP {found['gap']:.4f}  {ratios}  {found['seconds']:5.1f} s", flush=True)


if __name__ == "__main__":
    main()
