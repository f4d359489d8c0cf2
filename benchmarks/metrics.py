"""How fast GAP, Hit@1, PERR and mAP are computed, beside the published way of computing them, in the same run.

    python benchmarks/metrics.py [--num-videos 20000] [--million] [--json]

The peer (`peers/published_calculators.py`) does step by step what a description of the published calculators says. One
thread each, the same scores without ties, rounds that alternate; the least CPU seconds of each count, and both have to
give the same values. Labels are float32: the peer sums their columns faster than those of booleans. Ours are compiled
before the first round (some seconds, once a machine). The same is measured with all the details that a checkpoint keeps
of a validation for its report. `--million` also computes the metrics of a million videos and
tells the CPU seconds and the peak memory of the whole process, less the batches that are its input.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

# Before NumPy is imported, which reads them.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from peers.published_calculators import PublishedCalculators

from yt8m_ray.metrics import build_metric, update_all
from yt8m_ray.metrics.base import RankedBatch
from yt8m_ray.metrics.curves import calibration, class_arrays
from yt8m_ray.metrics.gap import MeanAP
from yt8m_ray.metrics.worst_videos import WorstVideos

NUM_CLASSES = 3862
BATCH_SIZE = 1024
NAMES = ("gap", "hit_at_1", "perr", "mean_ap")

Batch = tuple[np.ndarray, np.ndarray]


def make_batches(num_videos: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    batches = []
    for start in range(0, num_videos, BATCH_SIZE):
        count = min(BATCH_SIZE, num_videos - start)
        scores = rng.random((count, NUM_CLASSES)) ** 8
        labels = np.zeros((count, NUM_CLASSES), np.float32)
        rows = np.repeat(np.arange(count), 3)
        labels[rows, rng.integers(0, NUM_CLASSES, len(rows)) ** 2 // NUM_CLASSES] = 1
        batches.append(((scores * 0.7 + labels * rng.random((count, NUM_CLASSES)) * 0.3).astype(np.float32), labels))
    return batches


def by_ours(batches: list[Batch]) -> tuple[float, dict[str, float]]:
    started = time.process_time()
    metrics = {name: build_metric(name) for name in NAMES}
    for scores, labels in batches:
        update_all(metrics.values(), scores, labels)
    values = {name: metric.compute() for name, metric in metrics.items()}
    return time.process_time() - started, values


def with_details(batches: list[Batch]) -> float:
    """Returns the CPU seconds of the same metrics and of all that a report shows besides."""
    ids = [[f"{number:04x}{row:04x}" for row in range(len(scores))] for number, (scores, _) in enumerate(batches)]
    started = time.process_time()
    metrics = {name: build_metric(name) for name in NAMES}
    worst = WorstVideos()
    for (scores, labels), video_ids in zip(batches, ids, strict=True):
        batch = RankedBatch(scores, labels)
        for metric in metrics.values():
            metric.update_ranked(batch)
        worst.update_ranked(batch, video_ids)
    for metric in metrics.values():
        metric.compute()
    mean_ap = metrics["mean_ap"]
    assert isinstance(mean_ap, MeanAP)
    class_arrays(mean_ap), calibration(mean_ap), worst.arrays()
    return time.process_time() - started


def by_the_peer(batches: list[Batch]) -> tuple[float, dict[str, float]]:
    started = time.process_time()
    calculators = PublishedCalculators(NUM_CLASSES)
    for scores, labels in batches:
        calculators.update(scores, labels)
    values = calculators.compute()
    return time.process_time() - started, values


def measure_a_million() -> dict[str, float]:
    """Returns CPU seconds of a million videos, and the peak memory; making the batches does not count."""
    before = resident_gb()
    batches = make_batches(16 * BATCH_SIZE)
    held = resident_gb() - before
    metrics = {name: build_metric(name) for name in NAMES}
    updating = num_videos = 0.0
    while num_videos < 1_000_000:
        for scores, labels in batches:
            jittered = scores + np.float32(1e-7) * np.float32(num_videos % 977)
            started = time.process_time()
            update_all(metrics.values(), jittered, labels)
            updating += time.process_time() - started
            num_videos += len(scores)
    started = time.process_time()
    values = {name: metric.compute() for name, metric in metrics.items()}
    computing = time.process_time() - started
    assert all(np.isfinite(value) for value in values.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "million_videos_cpu_s": round(updating + computing, 2),
        "million_videos_compute_cpu_s": round(computing, 2),
        "million_videos_peak_gb": round(peak - held, 3),
    }


def resident_gb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-videos", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true", help="also measure a million videos")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    by_ours(make_batches(1))  # compiles
    # First, since the peak of a process never falls.
    figures = measure_a_million() if options.million else {}
    figures |= compare(make_batches(options.num_videos), options.rounds, options.num_videos)
    for name, value in figures.items():
        print(f"{name:30s} {value:12.3f}")
    if options.json:
        print(json.dumps(figures))


def compare(batches: list[Batch], rounds: int, num_videos: int) -> dict[str, float]:
    ours, peers, detailed = [], [], []
    for _ in range(rounds):
        ours.append(by_ours(batches))
        detailed.append(with_details(batches))
        peers.append(by_the_peer(batches))
    for name in NAMES:
        difference = abs(ours[0][1][name] - peers[0][1][name])
        assert difference < 1e-6, f"{name}: {ours[0][1][name]}, the peer has {peers[0][1][name]}"
    mine, theirs = min(seconds for seconds, _ in ours), min(seconds for seconds, _ in peers)
    return {
        "videos_per_cpu_s_ours": round(num_videos / mine),
        "videos_per_cpu_s_peer": round(num_videos / theirs),
        "ratio_to_published_calculators": round(theirs / mine, 1),
        "details_percent_more": round(100 * (min(detailed) / mine - 1), 1),
    }


if __name__ == "__main__":
    main()
