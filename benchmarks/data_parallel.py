"""Two workers of one thread against one worker of two: what DistributedDataParallel costs on one machine.

    python benchmarks/data_parallel.py [--config CONFIG] [--batch-size 1024] [--json] [section.key=value ...]

Both train the same model on the same global batch, held in memory, by the loop of `yt8m train`; the workers are a gloo
group on loopback. Rounds alternate; the ratios are of the best of each. Efficiency is videos/s of two workers divided
by videos/s of one with as many threads in all; scaling, divided by twice those of one worker with one thread, which
does not depend on how well torch shares one product out among threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.training.steps.build_loop import build_loop

NUM_WARM_UP_STEPS = 2


def random_videos(spec: FeatureSpec, num_videos: int, *, num_frames: int, seed: int) -> PackedVideos:
    rng = np.random.default_rng(seed)

    def frames() -> np.ndarray:
        if spec.is_video_level:
            return rng.normal(size=(1, spec.dim)).astype(np.float32)
        return rng.integers(0, 256, (num_frames, spec.dim), dtype=np.uint8)

    labels = rng.integers(0, spec.num_classes, (num_videos, 3))
    return PackedVideos.from_rows(
        [VideoRow(str(number), frames(), np.unique(labels[number]).astype(np.int32)) for number in range(num_videos)],
        spec,
    )


def again_and_again(videos: PackedVideos) -> Iterator[PackedVideos]:
    """Yields the videos under new names: the loop refuses a record that it has had."""
    for number in itertools.count(1):
        yield dataclasses.replace(videos, shards=np.full(len(videos), number, np.int32))


def videos_per_s(options: argparse.Namespace, rank: int, num_workers: int) -> float:
    """Returns the rate of all workers together, as this one sees it."""
    settings = [f"train.batch_size={options.batch_size}", "train.num_epochs=1000000", *options.overrides]
    config = load_document(options.config, TrainConfig, settings)
    loop, _ = build_loop(config, device=torch.device("cpu"))
    videos = random_videos(
        config.data.spec, options.batch_size // num_workers, num_frames=options.num_frames, seed=rank
    )
    steps = loop.steps(again_and_again(videos))
    for _ in range(NUM_WARM_UP_STEPS):
        next(steps)
    started = time.perf_counter()
    for _ in range(options.num_steps):
        next(steps)
    return options.num_steps * options.batch_size / (time.perf_counter() - started)


def run_workers(num_workers: int, num_threads: int) -> float:
    """Returns the rate of a group of processes, each with so many threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads), "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--group", folder, "--of", str(num_workers), "--rank"]
        workers = [
            subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
            for rank in range(num_workers)
        ]
        outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit("a worker failed")
    return float(outputs[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--config", default=str(Path(__file__).resolve().parents[1] / "configs/train/moe_video.yaml"))
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--num-frames", type=int, default=150)
    parser.add_argument("--num-steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    for name in ("--group", "--rank", "--of"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.group is not None:
        rank, num_workers = int(options.rank), int(options.of)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        if num_workers > 1:
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{options.group}/group", rank=rank, world_size=num_workers
            )
        print(videos_per_s(options, rank, num_workers))
        return
    kinds = {"one_of_two_threads": (1, 2), "two_of_one_thread": (2, 1), "one_of_one_thread": (1, 1)}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, (num_workers, num_threads) in kinds.items():
            rates[name].append(run_workers(num_workers, num_threads))
    best = {name: max(values) for name, values in rates.items()}
    figures = {f"{name}_videos_per_s": round(value, 1) for name, value in best.items()}
    figures["efficiency"] = round(best["two_of_one_thread"] / best["one_of_two_threads"], 3)
    figures["scaling"] = round(best["two_of_one_thread"] / (2 * best["one_of_one_thread"]), 3)
    for name, value in figures.items():
        print(f"{name:32s} {value:10.3f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
