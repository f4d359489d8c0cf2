from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.artifacts.checkpoint import load_details
from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.pipeline.packed_videos import Block
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.tracking.history import History, read_curves, read_history
from yt8m_ray.training.driver.validation import Metrics
from yt8m_ray.training.driver.worker import Worker
from yt8m_ray.training.run.checkpoints import LocalCheckpoints
from yt8m_ray.training.steps.profiling import TRACE_FILE

NUM_CLASSES = 5


def write_shard(path: Path, num_videos: int, *, unlabelled: Sequence[int] = ()) -> str:
    rng = np.random.default_rng(num_videos)
    videos: list[dict[str, Any]] = []
    for number in range(num_videos):
        labels = rng.choice(NUM_CLASSES, 2, replace=False).astype(np.int64)
        known = {} if number in unlabelled else {"labels": labels}
        mean = rng.normal(size=4).astype(np.float32)
        videos.append({"id": [f"v{number}".encode()], **known, "mean_rgb": mean})
    write_records(str(path), map(encode_example, videos))
    return str(path)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of 20 steps in this process, with a checkpoint inside each."""
    folder = tmp_path_factory.mktemp("run")
    shards = {
        "train": write_shard(folder / "train.tfrecord", 80),
        "validation": write_shard(folder / "validation.tfrecord", 30),
    }
    run(folder, shards, train={"num_epochs": 2, "profile": True}, checkpoint={"every_steps": 7})
    return folder


def run(folder: Path, shards: dict[str, str], *, train: dict[str, Any], **sections: Any) -> Metrics:
    """Trains on a shard a split in this process; returns the last metrics."""
    settings: dict[str, Any] = {
        "run": {"name": "run"},
        "data": {"features": {"mean_rgb": 4}, "num_classes": NUM_CLASSES},
        "model": {"name": "logistic"},
        "train": {"batch_size": 4, "log_every_steps": 5, **train},
    }
    config = TrainConfig.model_validate({**settings, **sections})

    class Coordinator:
        """A run of one worker that nobody stops."""

        checkpoints = LocalCheckpoints(folder, num_to_keep=9)
        mlflow_run_id = ""
        log = staticmethod(History(folder).append)

        def read(self, split: str) -> Iterator[Block]:
            return read_blocks(shards[split], config.data.spec, config.read_options(split))

        def start_epoch(self, position: Position) -> None:
            pass

        def should_stop(self) -> bool:
            return False

        def checkpoint_written(self, metrics: Metrics) -> None:
            pass

    return Worker(
        config,
        folder,
        num_videos=80,
        shards={split: [shard] for split, shard in shards.items()},
        num_records={},
        device=torch.device("cpu"),
        coordinator=Coordinator(),
    ).run()


def test_the_history_has_each_interval_and_each_validation(run_path: Path) -> None:
    curves = read_curves(run_path)

    assert curves["train/loss"][0].tolist() == [5, 10, 15, 20, 25, 30, 35, 40]
    assert curves["validation/gap"][0].tolist() == [20, 40]
    assert curves["system/worker_memory_gb"][0].tolist() == curves["train/loss"][0].tolist()


def test_the_history_says_how_far_the_run_is(run_path: Path) -> None:
    progress = [entry.progress for entry in read_history(run_path)[0] if entry.progress]

    assert [far["epochs"] for far in progress] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert progress[-1]["left_s"] == 0


def test_only_checkpoints_of_a_validation_have_its_details(run_path: Path) -> None:
    have = {path.name: bool(load_details(path)) for path in run_path.glob("epoch_*")}

    assert have == {
        "epoch_0000_step_000000007": False,
        "epoch_0000_step_000000014": False,
        "epoch_0001_step_000000020": True,
        "epoch_0001_step_000000021": False,
        "epoch_0001_step_000000028": False,
        "epoch_0001_step_000000035": False,
        "epoch_0002_step_000000040": True,
    }


def test_the_manifest_covers_the_details(run_path: Path) -> None:
    files = read_manifest(run_path / "epoch_0002_step_000000040", kind="checkpoint")["files"]

    assert isinstance(files, dict) and "validation.safetensors" in files


def test_steps_are_traced_where_that_is_wished(run_path: Path) -> None:
    assert (run_path / TRACE_FILE).stat().st_size > 1000


def test_videos_without_labels_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = {
        "train": write_shard(tmp_path / "train.tfrecord", 20, unlabelled=[0, 7, 8]),
        "validation": write_shard(tmp_path / "validation.tfrecord", 10, unlabelled=[9]),
    }

    with caplog.at_level(logging.WARNING):
        metrics = run(tmp_path, shards, train={"num_epochs": 2})

    assert (metrics["train/videos_read"], metrics["train/unlabelled"]) == (17, 3)
    assert (metrics["validation/num_videos"], metrics["validation/unlabelled"]) == (9, 1)
    assert [record.getMessage() for record in caplog.records if "labels" in record.getMessage()] == [
        "data.train: 3 of 20 videos have no labels and are left out",
        "data.validation: 1 of 10 videos have no labels and are left out",
    ]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_labels_ends_the_run(tmp_path: Path, split: str) -> None:
    shards = {
        name: write_shard(tmp_path / f"{name}.tfrecord", 6, unlabelled=range(6 if name == split else 0))
        for name in ("train", "validation")
    }

    with pytest.raises(ValueError, match=rf"data\.{split}: none of the 6 videos has labels"):
        run(tmp_path, shards, train={"num_epochs": 1})


def test_what_learns_from_a_teacher_alone_needs_no_labels(tmp_path: Path, save_tiny_checkpoint: Any) -> None:
    data = {"features": {"mean_rgb": 4}, "num_classes": NUM_CLASSES}
    teacher = save_tiny_checkpoint("teacher", data=data)
    shards = {"train": write_shard(tmp_path / "train.tfrecord", 20, unlabelled=range(3, 20))}

    metrics = run(tmp_path, shards, train={"num_epochs": 1}, distillation={"teacher": str(teacher), "weight": 1.0})

    assert (metrics["train/videos_read"], metrics["train/unlabelled"]) == (20, 0)


def test_features_of_other_names_and_classes_are_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [
        encode_sequence_example(
            {"video_id": [b"v%d" % number], "labels": np.array([number])},
            {"audio_embedding": rng.integers(0, 256, (10, 128), dtype=np.uint8)},
        )
        for number in range(20)
    ]
    write_records(str(tmp_path / "train.tfrecord"), videos)
    data = {"features": {"audio_embedding": 128}, "num_classes": 527}

    metrics = run(tmp_path, {"train": str(tmp_path / "train.tfrecord")}, train={"num_epochs": 1}, data=data)

    assert metrics["train/videos_read"] == 20 and np.isfinite(metrics["train/loss"])


TEACHER = {"checkpoint": "x"}


@pytest.mark.parametrize(
    ("sections", "policy"),
    [
        ({}, "required"),
        ({"distillation": {"labels": "x"}}, "required"),
        ({"distillation": {"labels": "x", "weight": 1.0}}, "optional"),
        ({"distillation": {"weight": 1.0}}, "required"),
        ({"teacher": {**TEACHER, "label_weight": 0.0}}, "optional"),
        ({"teacher": TEACHER}, "required"),
        ({"teacher": TEACHER, "distillation": {"teacher": "x", "weight": 1.0}}, "optional"),
        ({"teacher": {"model": {"name": "logistic"}, "label_weight": 0.0}}, "required"),
    ],
)
def test_labels_are_needed_where_something_learns_from_them(sections: dict[str, Any], policy: str) -> None:
    data = {"features": {"mean_rgb": 4}, "num_classes": NUM_CLASSES}
    config = TrainConfig.model_validate({"run": {"name": "x"}, "data": data, "model": {"name": "logistic"}, **sections})

    assert config.read_options("train").labels == policy
    assert config.read_options("validation").labels == "required"
