"""Shards to measure with where no TensorFlow is at hand: 120 to 300 random frames a video, as the published ones."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.schema import FRAME_FEATURES, NUM_CLASSES_2018


def make_shards(
    folder: str, *, num_videos: int = 4096, num_shards: int = 8, num_classes: int = NUM_CLASSES_2018
) -> list[str]:
    """Returns the paths of frame-level shards in `folder`, which are written where there are none."""
    paths = sorted(glob.glob(f"{folder}/frame*.tfrecord"))
    if paths:
        return paths
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [f"{folder}/frame{shard:04d}.tfrecord" for shard in range(num_shards)]
    for shard, path in enumerate(paths):
        write_records(path, _payloads(shard, num_videos // num_shards, num_classes))
    return paths


def _payloads(shard: int, count: int, num_classes: int) -> Iterator[bytes]:
    rng = np.random.default_rng(shard)
    for index in range(count):
        num_frames = int(rng.integers(120, 301))
        labels = np.sort(rng.choice(num_classes, 1 + int(rng.poisson(2)), replace=False))
        frames = {name: rng.integers(0, 256, (num_frames, size), np.uint8) for name, size in FRAME_FEATURES.items()}
        yield encode_sequence_example({"id": [f"{shard:02x}{index:04x}".encode()], "labels": labels}, frames)
