"""A run that is killed, interrupted and terminated in the middle of epochs, and started again each time."""

from __future__ import annotations

import functools
import glob
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import NUM_CLASSES, RunVerb, Shards, StartVerb
from tests.e2e.processes import Command, Outcome
from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.schema import VIDEO_FEATURES

NUM_TRAIN = 600
NUM_EPOCHS = 2
LAST_STEP = 2 * 30

EXIT_CODES = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "Ctrl-C": 130}
STOPS = tuple(EXIT_CODES) if os.environ.get("YT8M_SOAK") == "1" else ("SIGKILL", "SIGTERM")
"""Ctrl-C takes the way of SIGTERM; tests/e2e/test_demo.py presses it always."""


WORKERS = {**dict.fromkeys(STOPS, 2), "SIGTERM": 1}
"""Workers of the start that each stop ends; the last start has 2 again: no video depends on their number."""


def arguments(shards: Shards, output: Path, *, num_workers: int = 2) -> list[str]:
    """Returns a run of 2 epochs of 30 steps that keeps a checkpoint every other step."""
    settings = f"data.num_classes={NUM_CLASSES} scaling.num_workers={num_workers} train.batch_size=20"
    intervals = f"train.num_epochs={NUM_EPOCHS} train.log_every_steps=1 checkpoint.every_steps=2 run.name=run"
    intervals += " run.trace_videos=true model.name=moe train.report=false"
    paths = [f"output={output}", f"data.train={shards.train}", f"data.validation={shards.validation}"]
    return [*paths, *settings.split(), *intervals.split()]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says about how far its run was."""

    path: Path
    step: int
    num_examples_in_epoch: int
    position: Position

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        tensors = read_tensors(path / "state.safetensors")
        arrays = {key.removeprefix("position."): t.numpy() for key, t in tensors.items() if key.startswith("position.")}
        counters = (int(tensors[f"progress.{name}"]) for name in ("step", "num_examples_in_epoch"))
        return cls(path, *counters, Position.from_arrays(arrays))


@dataclass(frozen=True)
class Step:
    """What one worker trained on in one step."""

    started: float
    epoch: int
    step: int
    videos: list[str]


Trace = dict[str, list[Step]]
"""The steps of all starts so far, by the file that the workers of one rank write."""


def read_trace(run_path: Path) -> Trace:
    paths = run_path.glob("videos-*.jsonl")
    return {path.name: [Step(**json.loads(line)) for line in path.read_text().splitlines()] for path in paths}


@dataclass
class Stop:
    """One way to end a run early, and what was there afterwards."""

    end: Callable[[Command], None]
    outcome: Outcome = field(init=False)
    leftovers: list[str] = field(init=False)
    status: str = field(init=False)
    mlflow_status: str = field(init=False)
    checkpoint: Checkpoint = field(init=False)
    trace: Trace = field(init=False)


@dataclass(frozen=True)
class Story:
    """A run with its stops in order, and its last start, which ran to the end."""

    stops: dict[str, Stop]
    end: Outcome
    run_path: Path

    @property
    def kept_steps(self) -> list[Step]:
        """The steps that the final weights come from: those of each start up to the checkpoint that the next took."""
        ends = [(stop.trace, stop.checkpoint.step) for stop in self.stops.values()]
        kept: list[Step] = []
        before: Trace = {}
        for trace, last_step in [*ends, (read_trace(self.run_path), sys.maxsize)]:
            for name, steps in trace.items():
                kept += [step for step in steps[len(before.get(name, [])) :] if step.step <= last_step]
            before = trace
        return kept

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.run_path.parent / 'mlflow.db'}")

    @property
    def mlflow_run_id(self) -> str:
        record: dict[str, str] = json.loads((self.run_path / "run.json").read_text())
        return record["mlflow_run_id"]


@pytest.fixture(scope="module")
def undisturbed(run_verb: RunVerb, video_shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    command_line = arguments(video_shards, tmp_path_factory.mktemp("undisturbed"))
    outcome = run_verb("train", *command_line, "checkpoint.every_steps=null")
    assert outcome.code == 0, outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def story(
    start_verb: StartVerb, run_verb: RunVerb, video_shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    output = tmp_path_factory.mktemp("disturbed")
    command_line = arguments(video_shards, output)
    stops = {
        "SIGKILL": Stop(lambda command: command.send(signal.SIGKILL)),
        "Ctrl-C": Stop(lambda command: command.press_ctrl_c()),
        "SIGTERM": Stop(lambda command: command.send(signal.SIGTERM)),
    }
    stops = {name: stops[name] for name in STOPS}
    story = Story(stops, Outcome(-1, "", ""), output / "run")
    for name, stop in stops.items():
        line = arguments(video_shards, output, num_workers=WORKERS[name])
        with start_verb("train", *line) as command:
            command.wait_until(functools.partial(has_advanced, story.run_path, latest_checkpoint(story.run_path)))
            stop.end(command)
            stop.outcome = command.wait()
            stop.leftovers = command.leftovers()
        stop.status = json.loads((story.run_path / "run.json").read_text())["status"]
        stop.mlflow_status = story.client.get_run(story.mlflow_run_id).info.status
        latest = latest_checkpoint(story.run_path)
        assert latest is not None
        stop.checkpoint = Checkpoint.load(latest)
        stop.trace = read_trace(story.run_path)
    return Story(stops, run_verb("train", *command_line), story.run_path)


def has_advanced(run_path: Path, before: Path | None) -> bool:
    """Returns whether there is a newer checkpoint than `before`, inside an epoch."""
    latest = latest_checkpoint(run_path)
    if latest is None or (before is not None and latest.name <= before.name):
        return False
    step = int(latest.name.rpartition("_")[2])
    return 0 < step % (LAST_STEP // NUM_EPOCHS) < 20  # far from its end, which must not come before the signal


def test_the_exit_codes_are_those_of_the_signals(story: Story) -> None:
    assert {name: stop.outcome.code for name, stop in story.stops.items()} == {name: EXIT_CODES[name] for name in STOPS}


@pytest.mark.parametrize("name", STOPS)
def test_a_stopped_run_leaves_no_process_behind(story: Story, name: str) -> None:
    assert story.stops[name].leftovers == []


@pytest.mark.parametrize("name", STOPS[1:])
def test_a_stopped_run_says_so_on_disk_in_mlflow_and_in_one_word(story: Story, name: str) -> None:
    stop = story.stops[name]

    assert stop.status == "stopped"
    assert stop.mlflow_status == "KILLED"
    assert stop.outcome.stdout == ""
    assert "Traceback" not in stop.outcome.stderr
    assert stop.outcome.stderr.splitlines()[-1] == {"Ctrl-C": "interrupted", "SIGTERM": "terminated"}[name]


@pytest.mark.parametrize("name", STOPS[1:])
def test_a_run_that_is_asked_to_stop_loses_no_step_and_says_where_it_is(story: Story, name: str) -> None:
    stop = story.stops[name]
    steps = [step for steps in stop.trace.values() for step in steps]
    last_start = max(step.started for step in steps)

    assert stop.checkpoint.step == max(step.step for step in steps if step.started == last_start)
    assert f"stopped in epoch {stop.checkpoint.position.epoch + 1} behind step {stop.checkpoint.step}; " in (
        stop.outcome.stderr
    )


@pytest.mark.parametrize("name", STOPS)
def test_the_checkpoint_inside_an_epoch_knows_each_video_of_it(story: Story, name: str) -> None:
    checkpoint = story.stops[name].checkpoint

    # Each video was new: had one been read twice, there would be fewer records than examples.
    assert 0 < checkpoint.position.num_done == checkpoint.num_examples_in_epoch < NUM_TRAIN


@pytest.mark.parametrize("name", STOPS)
def test_the_same_command_continues_with_the_next_step(story: Story, name: str) -> None:
    checkpoint = story.stops[name].checkpoint
    later = (story.run_path / "train.log").read_text().split("continuing from ")[1 + STOPS.index(name)]

    assert later.startswith(f"{checkpoint.path}: epoch {checkpoint.position.epoch + 1}, ")
    first_step = re.search(r"  step (\d+)  ", later)
    assert first_step is not None and int(first_step[1]) == checkpoint.step + 1


def test_the_last_start_ends_all_epochs_without_a_video_too_many(story: Story) -> None:
    assert story.end.code == 0, story.end.stderr
    latest = latest_checkpoint(story.run_path)
    assert latest is not None
    assert int(read_tensors(latest / "state.safetensors")["progress.num_examples"]) == NUM_EPOCHS * NUM_TRAIN


def test_each_epoch_has_each_video_once_whatever_the_number_of_workers(story: Story, video_shards: Shards) -> None:
    spec = FeatureSpec(VIDEO_FEATURES, num_classes=NUM_CLASSES)
    paths = glob.glob(video_shards.train)
    expected = sorted(row.video_id for path in paths for _, row in read_rows(path, spec))
    seen: dict[int, list[str]] = {}
    for step in story.kept_steps:
        seen.setdefault(step.epoch, []).extend(step.videos)

    assert len(set(expected)) == NUM_TRAIN
    assert {epoch: sorted(videos) for epoch, videos in seen.items()} == dict.fromkeys(range(NUM_EPOCHS), expected)


def gap_of(outcome: Outcome) -> float:
    metrics = read_manifest(outcome.result, kind="checkpoint")["metrics"]
    assert isinstance(metrics, dict)
    return float(metrics["validation/gap"])


def test_the_disturbed_run_has_learned(story: Story) -> None:
    assert gap_of(story.end) > 0.8


@pytest.mark.soak
def test_the_disturbed_run_is_as_good_as_an_undisturbed_one(story: Story, undisturbed: Outcome) -> None:
    assert gap_of(story.end) == pytest.approx(gap_of(undisturbed), abs=0.005)


def test_mlflow_has_all_starts_in_one_finished_run(story: Story) -> None:
    run = story.client.get_run(story.mlflow_run_id)

    assert run.info.status == "FINISHED"
    assert len(story.client.search_runs([run.info.experiment_id])) == 1
    epochs = story.client.get_metric_history(run.info.run_id, "validation/gap")
    assert len(epochs) == NUM_EPOCHS
