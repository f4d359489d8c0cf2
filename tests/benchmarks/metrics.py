"""How fast GAP, Hit@1, PERR and mAP are computed, beside the published way of computing them, in the same run.

    python tests/benchmarks/metrics.py [--num-videos 20000] [--million] [--json]

The peer follows the description of the published calculators: for each video a partial sort and a list of (class,
score, label), for each class a heap of pairs, at the end a shuffle and a stable sort of each heap. One thread each, the
same scores without ties, rounds that alternate; the best of each counts, and both have to give the same values.
`--million` computes the metrics of a million videos and tells the seconds and the peak memory.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, its folder is what Python looks in

from yt8m_ray.metrics import build_metric, update_all

NUM_CLASSES = 3862
BATCH_SIZE = 1024
TOP_K = 20
NAMES = ("gap", "hit_at_1", "perr", "mean_ap")

Batch = tuple[np.ndarray, np.ndarray]


class PublishedCalculators:
    """GAP, Hit@1, PERR and mAP with a heap of (score, label) pairs for all videos, and one for each class."""

    def __init__(self) -> None:
        self._all: list[tuple[float, float]] = []
        self._by_class: list[list[tuple[float, float]]] = [[] for _ in range(NUM_CLASSES)]
        self._num_positives = np.zeros(NUM_CLASSES)
        self._num_videos = self._hits = self._precisions = 0.0

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        top = np.argmax(scores, 1)
        self._hits += float(np.sum(labels[np.arange(len(top)), top]))
        pairs: list[list[tuple[float, float]]] = [[] for _ in range(NUM_CLASSES)]
        for video in range(len(scores)):
            num_labels = int(np.sum(labels[video]))
            best = np.argpartition(scores[video], -num_labels)[-num_labels:]
            self._precisions += sum(labels[video, c] for c in best if scores[video, c] > 0) / max(num_labels, 1)
            kept = np.argpartition(scores[video], -TOP_K)[-TOP_K:]
            for class_id, score in sorted(((c, scores[video, c]) for c in kept), key=lambda pair: -pair[1]):
                pairs[class_id].append((score, labels[video, class_id]))
        self._num_positives += labels.sum(axis=0)
        self._num_videos += len(scores)
        for class_id, found in enumerate(pairs):
            for pair in found:
                heapq.heappush(self._all, pair)
                heapq.heappush(self._by_class[class_id], pair)

    def compute(self) -> dict[str, float]:
        aps = [
            average_precision(pairs, positives)
            for pairs, positives in zip(self._by_class, self._num_positives, strict=True)
            if positives > 0
        ]
        return {
            "gap": average_precision(self._all, float(self._num_positives.sum())),
            "hit_at_1": self._hits / self._num_videos,
            "perr": self._precisions / self._num_videos,
            "mean_ap": float(np.mean(aps)),
        }


def average_precision(pairs: list[tuple[float, float]], num_positives: float) -> float:
    random.seed(0)
    order = random.sample(pairs, len(pairs))
    order.sort(key=lambda pair: -pair[0])
    found = total = 0.0
    for rank, (_, label) in enumerate(order, start=1):
        if label > 0:
            found += 1
            total += found / rank
    return total / num_positives if num_positives else 0.0


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


def by_the_peer(batches: list[Batch]) -> tuple[float, dict[str, float]]:
    started = time.process_time()
    calculators = PublishedCalculators()
    for scores, labels in batches:
        calculators.update(scores, labels)
    values = calculators.compute()
    return time.process_time() - started, values


def measure_a_million() -> dict[str, float]:
    """Returns CPU seconds of a million videos, and the peak memory; making the batches does not count."""
    batches = make_batches(16 * BATCH_SIZE)
    metrics = {name: build_metric(name) for name in NAMES}
    spent = num_videos = 0.0
    while num_videos < 1_000_000:
        for scores, labels in batches:
            jittered = scores + np.float32(1e-7) * np.float32(num_videos % 977)
            started = time.process_time()
            update_all(metrics.values(), jittered, labels)
            spent += time.process_time() - started
            num_videos += len(scores)
    started = time.process_time()
    values = {name: metric.compute() for name, metric in metrics.items()}
    spent += time.process_time() - started
    assert all(np.isfinite(value) for value in values.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    held = sum(array.nbytes for batch in batches for array in batch) / 2**30
    return {"million_videos_cpu_s": round(spent, 2), "million_videos_peak_gb": round(peak - held, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-videos", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true", help="also measure a million videos")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    batches = make_batches(options.num_videos)
    figures = compare(batches, options.rounds, options.num_videos)
    del batches
    if options.million:
        figures |= measure_a_million()
    for name, value in figures.items():
        print(f"{name:30s} {value:12.3f}")
    if options.json:
        print(json.dumps(figures))


def compare(batches: list[Batch], rounds: int, num_videos: int) -> dict[str, float]:
    ours, peers = [], []
    for _ in range(rounds):
        ours.append(by_ours(batches))
        peers.append(by_the_peer(batches))
    for name in NAMES:
        difference = abs(ours[0][1][name] - peers[0][1][name])
        assert difference < 1e-6, f"{name}: {ours[0][1][name]}, the peer has {peers[0][1][name]}"
    mine, theirs = min(seconds for seconds, _ in ours), min(seconds for seconds, _ in peers)
    return {
        "videos_per_cpu_s_ours": round(num_videos / mine),
        "videos_per_cpu_s_peer": round(num_videos / theirs),
        "ratio_to_published_calculators": round(theirs / mine, 1),
    }


if __name__ == "__main__":
    main()
