"""Small video-level shards that a model can learn, for every test that trains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from yt8m_ray.data.example import encode_example
from yt8m_ray.data.tfrecord import write_records

NUM_CLASSES = 12
FEATURE_DIM = 16


@dataclass(frozen=True)
class Shards:
    """Globs of a train split of 10 shards and a validation split of 3, and how many videos each holds."""

    train: str
    validation: str
    num_train: int
    num_validation: int


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Shards of unequal length: nothing divides by two workers."""
    folder = tmp_path_factory.mktemp("shards")
    prototypes = np.random.default_rng(0).normal(size=(NUM_CLASSES, FEATURE_DIM))
    counts = {"train": [61 + 3 * index for index in range(10)], "validation": [97, 58, 122]}
    for split, sizes in counts.items():
        for index, size in enumerate(sizes):
            rng = np.random.default_rng([1, len(split), index])
            write_records(
                str(folder / f"{split}{index:04d}.tfrecord"),
                [_video(rng, prototypes, f"{split[0]}{index}_{number}") for number in range(size)],
            )
    return Shards(
        train=str(folder / "train*.tfrecord"),
        validation=str(folder / "validation*.tfrecord"),
        num_train=sum(counts["train"]),
        num_validation=sum(counts["validation"]),
    )


def _video(rng: np.random.Generator, prototypes: np.ndarray, name: str) -> bytes:
    labels = rng.choice(NUM_CLASSES, size=rng.integers(1, 4), replace=False)
    mean = prototypes[labels].sum(axis=0) + rng.normal(scale=1.0, size=FEATURE_DIM)
    return encode_example(
        {"id": [name.encode()], "labels": labels.astype(np.int64), "mean_rgb": mean.astype(np.float32)}
    )
