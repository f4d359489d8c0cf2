"""Small video-level shards that a model can learn, for every test that trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.inspection.dataset_manifest import Manifest
from yt8m_ray.data.inspection.dataset_summary import Summary
from yt8m_ray.data.inspection.shard_counts import survey_shard
from yt8m_ray.data.pipeline.shards import expand_shards

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


@pytest.fixture(scope="session")
def manifest(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a manifest of the shards of both splits."""
    paths = expand_shards([shards.train, shards.validation], key="shards")
    summary = Summary(paths, {"mean_rgb": FEATURE_DIM}, NUM_CLASSES)
    for index, path in enumerate(paths):
        summary.add(index, survey_shard(path, summary.sizes, num_classes=NUM_CLASSES))
    manifest = Manifest(tmp_path_factory.mktemp("manifest") / "manifest.json", summary.entries.values())
    manifest.save()
    return Path(manifest.path)


def _video(rng: np.random.Generator, prototypes: np.ndarray, name: str) -> bytes:
    labels = rng.choice(NUM_CLASSES, size=rng.integers(1, 4), replace=False)
    mean = prototypes[labels].sum(axis=0) + rng.normal(scale=1.0, size=FEATURE_DIM)
    return encode_example(
        {"id": [name.encode()], "labels": labels.astype(np.int64), "mean_rgb": mean.astype(np.float32)}
    )


SPACE: dict[str, Any] = {
    "model.num_mixtures": {"choice": [1, 2]},
    "optimizer.learning_rate": {"loguniform": [0.001, 0.1]},
}
NUM_EPOCHS = 3

MakeSearch = Callable[..., TuneConfig]


@pytest.fixture(scope="session")
def make_search(ray_cluster: None, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> MakeSearch:
    """Returns make(name, space, **tune) -> a search of tiny trials; all searches share one output folder."""
    output = tmp_path_factory.mktemp("searches")

    def make(name: str, space: dict[str, Any] = SPACE, num_epochs: int = NUM_EPOCHS, **tune: Any) -> TuneConfig:
        document = {
            "output": str(output),
            "run": {"name": name},
            "data": {
                "features": {"mean_rgb": FEATURE_DIM},
                "num_classes": NUM_CLASSES,
                "normalize": "none",
                "train": shards.train,
                "validation": shards.validation,
            },
            "model": {"name": "moe"},
            "train": {"batch_size": 64, "num_epochs": num_epochs},
            "tune": {"space": space, "max_concurrent": 1, "dashboard_port": None, **tune},
        }
        return TuneConfig.model_validate(document)

    return make
