"""A worker that is told to stop wherever it is: it writes what it has, and the next start goes on there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.pipeline.packed_videos import Block
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.training.driver.worker import Worker
from yt8m_ray.training.run.checkpoints import LocalCheckpoints
from yt8m_ray.training.run.run_folder import is_finished

pytestmark = pytest.mark.timeout(60)  # a worker that does not stop waits for ever

NUM_CLASSES, NUM_VIDEOS, BATCH_SIZE = 5, 24, 4
LAST_STEP = NUM_VIDEOS // BATCH_SIZE


def write_shard(path: Path, num_videos: int) -> str:
    rng = np.random.default_rng(num_videos)
    videos = [
        {
            "id": [f"v{number:03d}".encode()],
            "labels": rng.choice(NUM_CLASSES, 2, replace=False).astype(np.int64),
            "mean_rgb": rng.normal(size=4).astype(np.float32),
        }
        for number in range(num_videos)
    ]
    write_records(str(path), map(encode_example, videos))
    return str(path)


@dataclass
class Run:
    """One run of an epoch in this process, in as many starts as a test makes."""

    folder: Path
    train: dict[str, Any] = field(default_factory=dict)
    reported: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shards = {
            "train": [write_shard(self.folder / "train.tfrecord", NUM_VIDEOS)],
            "validation": [write_shard(self.folder / "validation.tfrecord", 30)],
        }
        settings: dict[str, Any] = {
            "output": str(self.folder),
            "run": {"name": "run", "trace_videos": True},
            "data": {"features": {"mean_rgb": 4}, "num_classes": NUM_CLASSES, "shuffle_window": 0},
            "model": {"name": "logistic"},
            "train": {"batch_size": BATCH_SIZE, "num_epochs": 1, **self.train},
        }
        self.config = TrainConfig.model_validate(settings)
        (self.folder / "run").mkdir()

    def start(self, before_block: Callable[[str, int, threading.Event], None] = lambda *_: None) -> None:
        """Trains until the end or a stop; `before_block(split, number, stop)` is called before each block is there."""
        Worker(
            self.config,
            self.folder / "run",
            num_videos=NUM_VIDEOS,
            shards=self.shards,
            num_records={},
            device=torch.device("cpu"),
            coordinator=Coordinator(self, before_block),
        ).run()

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "run").glob("epoch_*"))

    def has_validation(self, name: str) -> bool:
        return "validation/gap" in read_manifest(self.folder / "run" / name, kind="checkpoint")["metrics"]  # type: ignore[operator]


class Coordinator:
    """The run around its one worker."""

    mlflow_run_id = ""

    def __init__(self, run: Run, before_block: Callable[[str, int, threading.Event], None]) -> None:
        self.checkpoints = LocalCheckpoints(run.folder / "run", num_to_keep=9)
        self.checkpoint_written = run.reported.append
        self._run = run
        self._before_block = before_block
        self._stop, self._position = threading.Event(), Position()

    def start_epoch(self, position: Position) -> None:
        self._position = position

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def log(self, metrics: dict[str, float], step: int, progress: dict[str, float]) -> None:
        pass

    def read(self, split: str) -> Iterator[Block]:
        config = self._run.config
        skip = self._position.records(0) if split == "train" else np.empty(0, np.int64)
        path, options = self._run.shards[split][0], config.data.read_options
        for number, block in enumerate(read_blocks(path, config.data.spec, options, shard=0, skip=skip)):
            self._before_block(split, number, self._stop)
            yield block


def stop_and_block(split: str) -> Callable[[str, int, threading.Event], None]:
    """Asks for a stop before the first block of a split, which never comes: there is no room to read it."""

    def before_block(read: str, _: int, stop: threading.Event) -> None:
        if read == split:
            stop.set()
            threading.Event().wait()

    return before_block


def test_a_stop_before_the_first_block_is_answered_with_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)

    run.start(stop_and_block("train"))

    assert run.checkpoints() == ["epoch_0000_step_000000000"]


def test_a_second_stop_before_any_step_writes_nothing_again(tmp_path: Path) -> None:
    run = Run(tmp_path)

    run.start(stop_and_block("train"))
    run.start(stop_and_block("train"))

    assert len(run.reported) == 1


def test_a_stop_while_the_validation_waits_for_a_block_leaves_it_to_the_next_start(tmp_path: Path) -> None:
    run = Run(tmp_path)

    run.start(stop_and_block("validation"))

    left = f"epoch_0000_step_{LAST_STEP:09d}"
    assert run.checkpoints() == [left]
    assert not run.has_validation(left)
    assert not is_finished(run.config)

    run.start()

    assert run.has_validation(f"epoch_0001_step_{LAST_STEP:09d}")
    assert is_finished(run.config)


def test_a_stop_between_two_batches_of_the_validation_leaves_it_too(tmp_path: Path) -> None:
    run = Run(tmp_path)

    run.start(lambda split, _, stop: stop.set() if split == "validation" else None)

    assert run.checkpoints() == [f"epoch_0000_step_{LAST_STEP:09d}"]


def test_no_video_is_trained_on_again_for_a_validation_that_was_left(tmp_path: Path) -> None:
    run = Run(tmp_path)

    run.start(stop_and_block("validation"))
    run.start(stop_and_block("validation"))
    run.start()

    lines = (tmp_path / "run" / "videos-0.jsonl").read_text().splitlines()
    assert len(lines) == LAST_STEP


def test_the_validation_of_the_last_step_that_was_left_is_made_up_for(tmp_path: Path) -> None:
    """`max_steps` ends this run inside its epoch: the same checkpoint, validated, takes the place of the first."""
    run = Run(tmp_path, train={"max_steps": 3})

    run.start(stop_and_block("validation"))

    name = "epoch_0000_step_000000003"
    assert run.checkpoints() == [name]
    assert not is_finished(run.config)

    run.start()

    assert run.checkpoints() == [name]
    assert run.has_validation(name)
    assert is_finished(run.config)


def test_a_validation_that_was_left_gives_the_metrics_of_one_that_was_not(tmp_path: Path) -> None:
    for folder in ("left", "whole"):
        (tmp_path / folder).mkdir()
    left, whole = Run(tmp_path / "left"), Run(tmp_path / "whole")

    left.start(stop_and_block("validation"))
    left.start()
    whole.start()

    metrics = [{key: run.reported[-1][key] for key in run.reported[-1] if "/" in key} for run in (left, whole)]
    validations = [
        {key: value for key, value in of.items() if key.startswith(("validation/", "data/"))} for of in metrics
    ]
    assert validations[0] == validations[1]
    assert validations[0]["validation/num_videos"] == 30
