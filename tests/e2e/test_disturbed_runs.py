"""What happens around a run of `jobs.train`: each ends well, or in one message, and the same command goes on.

Kills at random moments, a cluster that dies under the run, MLflow that fails throughout, a second command at the same
run, a folder that is removed, a config that changes between two starts.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import NUM_CLASSES, RunVerb, Shards, StartVerb
from tests.e2e.nodes import RunFolder, videos_of
from tests.support.tracking_server import Mood, tracking_server
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.artifacts.folder_manifest import read_manifest

NUM_KILLS = 10


def arguments(shards: Shards, output: Path, *more: str, num_epochs: int = 2, num_workers: int = 2) -> list[str]:
    settings = f"data.num_classes={NUM_CLASSES} scaling.num_workers={num_workers} train.batch_size=20"
    settings += " model.name=moe run.name=run"
    intervals = f"train.num_epochs={num_epochs} train.log_every_steps=10 checkpoint.every_steps=5 train.report=false"
    paths = [f"output={output}", f"data.train={shards.train}", f"data.validation={shards.validation}"]
    return [*paths, *settings.split(), *intervals.split(), "run.trace_videos=true", *more]


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def test_a_second_command_is_refused_and_a_removed_folder_is_one_message(
    start_verb: StartVerb, run_verb: RunVerb, video_shards: Shards, tmp_path: Path
) -> None:
    command_line = arguments(video_shards, tmp_path, num_epochs=1000, num_workers=1)
    with start_verb("train", *command_line) as first:
        first.wait_until(lambda: latest_checkpoint(tmp_path / "run"))

        second = run_verb("train", *command_line)

        assert second.code == 2
        assert errors(second.stderr) == [
            f"error: run.name: another command is at work on {tmp_path}/run; wait, or choose another name"
        ]
        (tmp_path / "run").rename(tmp_path / "removed")  # at once: the run writes while a tree is removed file by file
        outcome = first.wait()
        assert first.leftovers() == []

    assert outcome.code == 1
    assert errors(outcome.stderr) == [
        f"error: {tmp_path}/run: the folder of the run was removed while the run was at work"
    ]
    assert "Traceback" not in outcome.stderr


@pytest.mark.soak
def test_a_run_killed_at_random_moments_trains_on_each_video_once_an_epoch(
    start_verb: StartVerb, run_verb: RunVerb, video_shards: Shards, tmp_path: Path
) -> None:
    run, moments = RunFolder(tmp_path / "run"), random.Random(9)
    command_line = arguments(video_shards, tmp_path, "checkpoint.num_to_keep=2", num_epochs=1000)
    for number in range(NUM_KILLS):
        with start_verb("train", *command_line) as command:
            if number % 2:  # the others at any moment, the start of the cluster among them
                step = run.checkpoint_step()
                command.wait_until(lambda: run.checkpoint_step() > step)  # noqa: B023 - called at once
            time.sleep(moments.uniform(0, 3 if number % 2 else 30))
            command.send(signal.SIGKILL)
            assert command.wait().code == -signal.SIGKILL
            assert command.leftovers(grace_s=60) == []
    latest = latest_checkpoint(run.path)
    assert latest is not None
    num_epochs = int(latest.name.split("_")[1]) + 2

    outcome = run_verb("train", *arguments(video_shards, tmp_path, num_epochs=num_epochs))

    assert outcome.code == 0, outcome.stderr
    expected = videos_of(video_shards.train, num_classes=NUM_CLASSES)
    assert run.kept_videos() == dict.fromkeys(range(num_epochs), expected)


@pytest.mark.soak
@pytest.mark.parametrize("mood", ["hangs", "503"])
def test_a_run_ends_well_without_mlflow(run_verb: RunVerb, video_shards: Shards, tmp_path: Path, mood: Mood) -> None:
    with tracking_server(tmp_path / "artifacts") as server:
        server.mood = mood
        outcome = run_verb("train", *arguments(video_shards, tmp_path, f"tracking.uri={server.uri}"))
        server.well_again.set()

    assert outcome.code == 0, outcome.stderr
    assert f"MLflow does not answer, the run goes on without it: tracking.uri: {server.uri}" in outcome.stderr
    assert f"MLflow at {server.uri} does not have all of this run" in outcome.stderr
    assert "validation/gap" in read_manifest(outcome.result, kind="checkpoint")["metrics"]  # type: ignore[operator]


@contextlib.contextmanager
def locked_store(path: Path) -> Iterator[None]:
    """Holds an SQLite file as another program may that writes to it and stops."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.soak
def test_a_run_ends_well_beside_a_locked_store_and_the_same_command_sends_the_rest(
    run_verb: RunVerb, video_shards: Shards, tmp_path: Path
) -> None:
    first = run_verb("train", *arguments(video_shards, tmp_path, num_epochs=1))
    assert first.code == 0, first.stderr
    with locked_store(tmp_path / "mlflow.db"):
        second = run_verb("train", *arguments(video_shards, tmp_path))

    assert second.code == 0, second.stderr
    assert "database is locked" in second.stderr

    third = run_verb("train", *arguments(video_shards, tmp_path))

    assert third.code == 0, third.stderr
    assert "is finished already" in third.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        (status,) = connection.execute("SELECT status FROM runs").fetchone()
        (last,) = connection.execute("SELECT max(step) FROM metrics WHERE key = 'validation/gap'").fetchone()
    assert (status, last) == ("FINISHED", 2 * 600 // 20)


@pytest.mark.soak
def test_a_change_that_a_run_cannot_bear_is_one_message_and_one_that_it_can_is_named(
    run_verb: RunVerb, video_shards: Shards, tmp_path: Path
) -> None:
    first = run_verb("train", *arguments(video_shards, tmp_path, num_epochs=1))
    assert first.code == 0, first.stderr
    checkpoint = latest_checkpoint(tmp_path / "run")

    refused = run_verb("train", *arguments(video_shards, tmp_path, "model.num_mixtures=3"))
    taken = run_verb("train", *arguments(video_shards, tmp_path, "optimizer.learning_rate=0.002"))

    assert refused.code == 2
    assert errors(refused.stderr) == [f"error: model.num_mixtures: 2 in {checkpoint}, now 3"]
    assert taken.code == 0, taken.stderr
    assert "continued with a change: optimizer.learning_rate was " in taken.stderr


@pytest.mark.parametrize("server", ["raylet", pytest.param("gcs_server", marks=pytest.mark.soak)])
def test_the_death_of_a_server_of_ray_is_one_message_and_leaves_nothing(
    start_verb: StartVerb, video_shards: Shards, tmp_path: Path, server: str
) -> None:
    with start_verb("train", *arguments(video_shards, tmp_path, num_epochs=1000)) as command:
        command.wait_until(lambda: latest_checkpoint(tmp_path / "run"))
        (process,) = [process for process in command.processes() if process.name() == server]
        process.kill()
        outcome = command.wait(timeout_s=30)
        assert command.leftovers() == []

    assert outcome.code == 1
    (message,) = errors(outcome.stderr)
    assert message.startswith(f"error: Ray's {server} on this machine has died; its logs are in /")
    assert "Traceback" not in outcome.stderr
