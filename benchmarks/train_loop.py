"""How fast the training loop runs from TFRecords, beside the same steps on one batch that is on the device already.

    python benchmarks/train_loop.py [--folder DIR] [--num-readers 8] [--batch-size 160] [--num-steps 100] [--json]

The model is the 2018 winner's NetVLAD (256 clusters, hidden 1024, MoE-2, 3,862 classes) in bfloat16;
`model.hidden_dim=64` and the like make it smaller. No Ray is needed: reader processes hand blocks over through shared
memory, and everything behind them is what a worker of `yt8m train` runs, from `batches_of` to the optimizer's step.
`input_wait_fraction` is the share of the time in which the loop waited for a batch. The goal on a large GPU is 15,600
videos/s: ten epochs of YouTube-8M's 5.6 million videos in an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.raw_readers import raw_readers
from benchmarks.shards import make_shards
from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.batches import batches_of, prefetch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.losses import build_loss
from yt8m_ray.models import build_model
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.objective import Objective

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train" / "netvlad.yaml"
GOAL_VIDEOS_PER_S = 15_600
NUM_WARM_UP_STEPS = 5


def run_steps(loop: TrainingLoop, batches: Iterator[PackedVideos], num_steps: int) -> dict[str, float]:
    """Returns videos_per_s and input_wait_fraction of `num_steps` steps behind a few that warm up."""
    for _ in itertools.islice(loop.steps(batches), NUM_WARM_UP_STEPS):
        pass
    loop.interval()
    wait_for_device()
    started, before = time.perf_counter(), loop.progress.num_examples
    for _ in itertools.islice(loop.steps(batches), num_steps):
        pass
    wait_for_device()
    elapsed = time.perf_counter() - started
    return {
        "videos_per_s": (loop.progress.num_examples - before) / elapsed,
        "input_wait_fraction": loop.interval()["train/input_wait_fraction"],
    }


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def again_and_again(batch: PackedVideos) -> Iterator[PackedVideos]:
    """Yields the batch under new names: the loop refuses a video that it has had."""
    for number in itertools.count(1):
        yield dataclasses.replace(batch, shards=np.full(len(batch), -number), records=np.arange(len(batch)))


def measure(options: argparse.Namespace, folder: str) -> dict[str, float]:
    config = load_document(str(CONFIG), TrainConfig, [f"train.batch_size={options.batch_size}", *options.overrides])
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes).to(
        device
    )
    objective = Objective(model, build_loss(config.loss).to(device))
    loop = TrainingLoop(objective, config, device=device)
    paths = make_shards(folder, num_classes=config.data.num_classes)
    num_passes = 2 + options.batch_size * (options.num_steps + NUM_WARM_UP_STEPS) // 4096
    is_gpu = device.type == "cuda"
    with raw_readers(paths * num_passes, config.data.spec, options.num_readers) as packs:
        # The frames of a pack lie in memory that its reader will write to again.
        kept = (pack.select(np.arange(len(pack))) for pack in packs)
        window = config.data.shuffle_window
        batches = prefetch(
            batches_of(kept, batch_size=options.batch_size, shuffle_window=window, pin_memory=is_gpu), depth=2
        )
        from_shards = run_steps(loop, batches, options.num_steps)
        one = next(batches)
        batches.close()  # type: ignore[attr-defined]
    on_device = run_steps(loop, again_and_again(one), options.num_steps)
    return {
        "videos_per_s_from_shards": round(from_shards["videos_per_s"], 1),
        "videos_per_s_same_batch": round(on_device["videos_per_s"], 1),
        "share_of_same_batch": round(from_shards["videos_per_s"] / on_device["videos_per_s"], 3),
        "input_wait_fraction": round(from_shards["input_wait_fraction"], 4),
        "share_of_goal": round(from_shards["videos_per_s"] / GOAL_VIDEOS_PER_S, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="changes to configs/train/netvlad.yaml"
    )
    parser.add_argument("--folder", help="keep the shards here, or take those that are here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--num-readers", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=160)
    parser.add_argument("--num-steps", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(options, options.folder or scratch)
    for name, value in figures.items():
        print(f"{name:30s} {value:12.3f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
