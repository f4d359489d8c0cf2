"""Whole runs of two workers with unequal rows against runs of one: teachers, averages, parts of batches, clipping.

Run as a script, this file is one worker of a gloo group; the tests start two of them and compare.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # run as a script, its folder is what Python looks in

from tests.support.two_workers import run_two_workers
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.training.steps.build_loop import build_loop

NUM_VIDEOS, BATCH_SIZE = 45, 9
RUNS: dict[str, dict[str, Any]] = {
    "teacher": {"teacher": {"model": {"name": "moe"}, "prediction_weight": 2.0}},
    "published_sums": {"teacher": {"model": {"name": "moe"}, "published_sums": True}},
    "published_sums_of_towers": {
        "teacher": {"model": {"name": "moe"}, "published_sums": True, "representation_weight": 0, "label_weight": 0},
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.001,
            "gradient_reduction": "sum",
            "learning_rate_factors": {"teacher.*": 0.0},
        },
        "train": {"regularization_penalty": 0},
    },
    "average": {"ema": {"decay": 0.5}},
    "parts": {"train": {"accumulation": 3}},
    "global_clip": {"optimizer": {"clip": "global", "clip_gradient_norm": 0.01}},
    "adamw_cosine": {"optimizer": {"name": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warm_up_examples": 9}},
    "frozen_parts": {"optimizer": {"learning_rate_factors": {"head.experts.*": 0.0}}},
    "batch_norm": {"model": {"name": "netvlad", "num_clusters": 3, "hidden_dim": 6}, "train": {"accumulation": 2}},
}


def config_of(name: str) -> TrainConfig:
    sections = {"model": {"name": "moe"}, **RUNS[name]}
    train = {"batch_size": BATCH_SIZE, "num_epochs": 1, **sections.pop("train", {})}
    optimizer = {"learning_rate": 0.05, **sections.pop("optimizer", {})}
    data = {"features": {"rgb": 6, "audio": 4}, "num_classes": 4}
    return TrainConfig.model_validate(
        {"run": {"name": name}, "data": data, "train": train, "optimizer": optimizer, **sections}
    )


def batches(config: TrainConfig, share: slice) -> Iterator[PackedVideos]:
    """Yields this worker's share of each batch; what one worker has in its, two have in theirs."""
    rng = np.random.default_rng(0)
    rows = [
        VideoRow(
            str(number),
            rng.integers(0, 256, (rng.integers(1, 4), 10)).astype(np.uint8),
            np.array([rng.integers(4)], np.int32),
        )
        for number in range(NUM_VIDEOS)
    ]
    packed = PackedVideos.from_rows(rows, config.data.spec)
    for start in range(0, NUM_VIDEOS, BATCH_SIZE):
        yield packed.select(np.arange(start, start + BATCH_SIZE)[share])


def weights_after(name: str, share: slice) -> dict[str, torch.Tensor]:
    config = config_of(name)
    loop, _ = build_loop(config, device=torch.device("cpu"), num_videos=NUM_VIDEOS)
    list(loop.steps(batches(config, share)))
    models = {"model": loop.model, "teacher": loop.teacher, "average": loop.ema and loop.ema.average}
    return {
        f"{kind}.{key}": tensor.clone()
        for kind, model in models.items()
        if model is not None
        for key, tensor in model.state_dict().items()
    }


def work(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    share = slice(0, 7) if rank == 0 else slice(7, None)
    torch.save({name: weights_after(name, share) for name in RUNS}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", name="by_workers")
def weights_by_two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("workers")
    run_two_workers(__file__, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_both_workers_end_with_the_same_weights(
    by_workers: list[dict[str, dict[str, torch.Tensor]]], name: str
) -> None:
    first, second = by_workers
    assert first[name].keys() == second[name].keys()
    for key, tensor in first[name].items():
        torch.testing.assert_close(second[name][key], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "batch_norm"])
def test_two_workers_end_with_the_weights_of_one(
    by_workers: list[dict[str, dict[str, torch.Tensor]]], name: str
) -> None:
    torch.testing.assert_close(by_workers[0][name], weights_after(name, slice(None)), rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
