"""`jobs.download` as a user types it: killed and interrupted in the middle, and given again."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RunVerb, StartVerb
from tests.e2e.processes import Command
from tests.support.mirror import PARTITION, Mirror

A, B, C = "trainaa.tfrecord", "trainab.tfrecord", "trainac.tfrecord"
FILES = {name: random.Random(name).randbytes(200_000) for name in (A, B, C)}


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror(dict(FILES)) as mirror:
        yield mirror


def arguments(mirror: Mirror, output: Path) -> list[str]:
    paths = ["--partition", PARTITION, "--base-url", mirror.url, "--output", str(output)]
    return [*paths, "--num-connections", "1", "--num-attempts", "2", "--backoff-s", "0"]


def here(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_download_ends_with_its_folder_on_stdout_and_a_summary_on_stderr(
    run_verb: RunVerb, mirror: Mirror, tmp_path: Path
) -> None:
    outcome = run_verb("download", *arguments(mirror, tmp_path / "shards"))

    assert (outcome.code, outcome.stdout) == (0, f"{tmp_path / 'shards'}\n"), outcome.stderr
    assert outcome.stderr.startswith(f"{tmp_path / 'shards'}: 3 files; 3 fetched (600kB in 00:00), 0 were there, ")
    assert here(tmp_path / "shards") == FILES


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (lambda command: command.send(signal.SIGKILL), -signal.SIGKILL),
        (lambda command: command.send(signal.SIGTERM), 143),
        (Command.press_ctrl_c, 130),
    ],
    ids=["SIGKILL", "SIGTERM", "Ctrl-C"],
)
def test_the_same_command_continues_a_download_that_was_stopped(
    start_verb: StartVerb,
    run_verb: RunVerb,
    mirror: Mirror,
    tmp_path: Path,
    stop: Callable[[Command], None],
    code: int,
) -> None:
    mirror.faults[B] = ["slow"]
    part = tmp_path / f"{B}.part"
    with start_verb("download", *arguments(mirror, tmp_path)) as command:
        command.wait_until(lambda: part.exists() and part.stat().st_size > 10_000)
        stop(command)
        stopped = command.wait()
    assert stopped.code == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    size = part.stat().st_size
    assert size < len(FILES[B]), "it waited for the slow file"
    mirror.requests.clear()

    again = run_verb("download", *arguments(mirror, tmp_path))

    assert again.code == 0, again.stderr
    assert mirror.requests == [(B, f"bytes={size}-"), (C, None)]
    assert here(tmp_path) == FILES


def test_a_file_that_stays_wrong_is_exit_1_with_its_name_and_the_others_are_there(
    run_verb: RunVerb, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.faults[A], mirror.is_lasting = ["wrong"], True

    outcome = run_verb("download", *arguments(mirror, tmp_path))

    assert (outcome.code, outcome.stdout) == (1, "")
    assert f"error: {tmp_path}: 1 of 3 files failed:\n  {mirror.url}/{PARTITION}/{A}: expected md5 " in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert here(tmp_path) == {B: FILES[B], C: FILES[C]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--partition", "2/frame"], "partition: expected version/level/split such as 2/frame/train"),
        (
            ["--partition", "2/frame/tarin"],
            "/2/download_plans/frame_tarin.json: no such plan (404 Not Found); partitions are named like 2/frame/train",
        ),
        (["--shard", "101,100"], "shard: expected i,n with 1 <= i <= n, found '101,100'"),
    ],
)
def test_a_wrong_argument_is_exit_2_with_one_message(
    run_verb: RunVerb, mirror: Mirror, tmp_path: Path, changes: list[str], message: str
) -> None:
    outcome = run_verb("download", *arguments(mirror, tmp_path), *changes)

    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
