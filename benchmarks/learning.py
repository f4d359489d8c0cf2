"""Whether every model learns: GAP on synthetic clips with planted labels, beside the ideal and the class-prior scorer.

    python benchmarks/learning.py [--models lstm,netvlad] [--num-videos 4096] [--seed 0]

Models are small, and trained as `yt8m train` trains (its loop, its batches, its normalization) in one process without
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.batches import batches_of, to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.data.synthetic.config import SynthesisConfig
from yt8m_ray.data.synthetic.write_shards import synthesize
from yt8m_ray.evaluation import evaluate
from yt8m_ray.losses import build_loss
from yt8m_ray.metrics import build_metric
from yt8m_ray.models import MODELS, build_model
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.objective import Objective

NUM_CLASSES = 200
CLIP_FRAMES = (8, 12)
SIGNAL = 40.0
NUM_SHARDS = 4
NUM_VIDEOS = 4096
NUM_VALIDATION = 512
NUM_EPOCHS = 8
# Small sizes by the names of the fields; a model takes those that it has.
SMALL: dict[str, Any] = {
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
NO_DROPOUT = {"name": "logit_moe", "num_mixtures": 2, "dropout": 0.0}
OWN: dict[str, dict[str, Any]] = {
    "gated_dbof_2019": {"head": NO_DROPOUT, "sampling": {"name": "all"}, "num_clusters": 256},
    "nextvlad_2019": {"head": NO_DROPOUT, "sampling": {"name": "all"}, "expansion": 1},
    "nextvlad": {"expansion": 1},
    "mix_nextvlad": {"expansion": 1},
}
FEWER_EPOCHS = {"branched_gru": 4}  # its cells are as many as a feature has values
LEARNING_RATES = {"frame_logistic": 0.03, "logistic": 0.03, "moe": 0.03}


def config_of(name: str, *, num_epochs: int, seed: int) -> TrainConfig:
    """Returns the run of a small model."""
    fields = MODELS.config_type(name).model_fields
    small = {field: value for field, value in SMALL.items() if field in fields}
    document = {
        "run": {"name": name, "seed": seed},
        "data": {"features": {"rgb": 1024, "audio": 128}, "num_classes": NUM_CLASSES, "shuffle_window": 512},
        "model": {"name": name, **small, **OWN.get(name, {})},
        "optimizer": {"learning_rate": LEARNING_RATES.get(name, 0.003)},
        "train": {"batch_size": 64, "num_epochs": FEWER_EPOCHS.get(name, num_epochs)},
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
    loop = TrainingLoop(Objective(model, criterion), config, device=device)
    for epoch in range(config.train.num_epochs):
        for _ in loop.steps(_shuffled(train, config, epoch)):
            pass
        loop.progress.position.start_epoch(epoch + 1)
    batches = (to_batch(packed, spec=spec, normalize=config.data.normalize, device=device) for packed in validation)
    return {"gap": evaluate(model, batches, criterion).compute()["gap"], "seconds": time.perf_counter() - started}


def _shuffled(videos: list[PackedVideos], config: TrainConfig, epoch: int) -> Iterator[PackedVideos]:
    return batches_of(videos, batch_size=config.train.batch_size, shuffle_window=1 << 20, seed=(config.run.seed, epoch))


def synthesize_splits(folder: Path, *, num_videos: int, seed: int) -> tuple[float, float]:
    """Writes train/ and validate/ and returns the GAP of the ideal and of the class-prior scorer on the latter."""
    for split, count in (("train", num_videos), ("validate", NUM_VALIDATION)):
        config = SynthesisConfig(
            num_shards=NUM_SHARDS,
            videos_per_shard=count // NUM_SHARDS,
            num_classes=NUM_CLASSES,
            split=split,
            signal=SIGNAL,
            min_frames=CLIP_FRAMES[0],
            max_frames=CLIP_FRAMES[1],
            seed=seed,
        )
        document = synthesize(config, folder / split, new_gap=lambda: build_metric("gap"))
    return document["ideal_scorer_gap"], document["class_prior_gap"]


def learn_from(folder: Path, name: str, *, num_epochs: int, seed: int) -> dict[str, float]:
    """Returns the GAP and the seconds of one small model on what `synthesize_splits` wrote."""
    config = config_of(name, num_epochs=num_epochs, seed=seed)
    train, validation = (read_all(folder / split, config) for split in ("train", "validate"))
    return learn(config, train, validation)


def main() -> None:
    """Prints a line a model."""
    parser = argparse.ArgumentParser(description="Whether every model learns.")
    parser.add_argument("--models", help="names, separated by commas")
    parser.add_argument("--num-videos", type=int, default=NUM_VIDEOS)
    parser.add_argument("--num-epochs", type=int, default=NUM_EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.models.split(",") if options.models else MODELS.names()
    with tempfile.TemporaryDirectory(prefix="yt8m_learning_") as folder:
        ideal, prior = synthesize_splits(Path(folder), num_videos=options.num_videos, seed=options.seed)
        print(f"ideal {ideal:.4f}  class prior {prior:.4f}", flush=True)
        for name in names:
            found = learn_from(Path(folder), name, num_epochs=options.num_epochs, seed=options.seed)
            ratios = f"{found['gap'] / ideal:5.2f} of the ideal  {found['gap'] / prior:5.1f} x the prior"
            print(f"{name:20s} GAP {found['gap']:.4f}  {ratios}  {found['seconds']:5.1f} s", flush=True)


if __name__ == "__main__":
    main()
