"""Nodes that are to go, and nodes that join, while a run is at any place: waiting, stepping, validating, writing.

The head has 2 logical CPUs, the second node too; 3 workers of one each leave one free, for the reader, on either. A
notice therefore often takes away the only CPU that a read task can have: whoever waits for its block has to hear it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.conftest import Head, RunVerb, Shards, StartVerb, started
from tests.e2e.nodes import NoticeGiver, RunFolder, elastic_run, node, videos_of
from tests.e2e.processes import Command, Outcome

IS_SOAK = os.environ.get("YT8M_SOAK") == "1"
NUM_NOTICES = 10 if IS_SOAK else 1
"""Behind each notice another node joins."""

NUM_CLASSES = 1000


@pytest.fixture(scope="module")
def shards(run_verb: RunVerb, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """600 videos to train on, and so many to validate that it takes seconds."""
    folder = tmp_path_factory.mktemp("shards")
    for split, num_shards, num_videos in (("train", 6, 100), ("validate", 6, 800)):
        flags = f"--kind video --split {split} --num-shards {num_shards} --videos-per-shard {num_videos} --seed 3"
        outcome = run_verb(
            "synthesize", "--output", str(folder / split), *flags.split(), f"--num-classes={NUM_CLASSES}"
        )
        assert outcome.code == 0, outcome.stderr
    return Shards(str(folder / "train" / "*.tfrecord"), str(folder / "validate" / "*.tfrecord"))


def arguments(shards: Shards, output: Path, *, num_epochs: int) -> list[str]:
    more = {"every_steps": 7, "num_classes": NUM_CLASSES}
    return elastic_run(shards, output, "train.report=false", num_epochs=num_epochs, **more)


@dataclass
class Notice:
    """One notice: where the run was, and what came of it.

    Attributes:
        place: Of the run.
        last_step: The last step before that start.
        first_step: The step that it went on from.
    """

    place: str
    last_step: int
    first_step: int


@dataclass
class Story:
    """A run and the notices that it was given."""

    run: RunFolder
    notices: list[Notice] = field(default_factory=list)
    num_workers: list[int] = field(default_factory=list)
    stopped: Outcome | None = None


class Watch:
    """Waits until a run is at a place."""

    def __init__(self, run: RunFolder, command: Command) -> None:
        self.run, self.command = run, command
        self.random = random.Random(5)

    def last_step(self) -> int:
        """The last step that rank 0 has taken: the end of its file alone is read."""
        path = self.run.path / "videos-0.jsonl"
        lines = path.read_bytes()[-20_000:].splitlines() if path.exists() else []
        whole = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        steps = [int(line.split(b'"step": ')[1].split(b",")[0]) for line in whole]
        return steps[-1] if steps else 0

    def until(self, condition: Callable[[], object]) -> None:
        self.command.wait_until(condition, timeout_s=240)

    def before_the_first_block(self) -> None:
        """Workers are there, which the caller has seen; the first block is not."""

    def in_the_validation(self) -> None:
        num_epochs = self.command.stderr.count(" 100%  step")  # the last line of an epoch's steps
        self.until(lambda: self.command.stderr.count(" 100%  step") > num_epochs)
        time.sleep(self.random.random())

    def between_steps(self) -> None:
        step = self.last_step()
        self.until(lambda: self.last_step() > step + 3)

    def in_a_checkpoint(self) -> None:
        self.until(lambda: list(self.run.path.glob(".aside-*")))

    def at_any_time(self) -> None:
        time.sleep(self.random.uniform(0, 8))


PLACES = ("in_the_validation", "before_the_first_block", "in_a_checkpoint", "between_steps", "at_any_time")


@pytest.fixture(scope="module")
def story(start_verb: StartVerb, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    output, nodes = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("nodes")
    story = Story(RunFolder(output / "run"))
    with started(Head(num_cpus=2), nodes) as head, contextlib.ExitStack() as stack:
        giver = stack.enter_context(contextlib.closing(NoticeGiver(head)))
        second = stack.enter_context(node(head, nodes))
        command = start_verb("train", *arguments(shards, output, num_epochs=1000), **head.environment)
        stack.enter_context(command)
        watch = Watch(story.run, command)
        for number in range(NUM_NOTICES):
            watch.until(lambda: len(story.run.starts()) == 2 * number + 1)  # noqa: B023 - called at once
            place = PLACES[number % len(PLACES)]
            getattr(watch, place)()
            story.notices.append(give_notice(giver, second, story.run, watch, place))
            if number + 1 < NUM_NOTICES:
                second.kill()
                second = stack.enter_context(node(head, nodes))
        command.send(signal.SIGTERM)
        story.stopped = command.wait()
    story.num_workers = [int(line.split()[0]) for line in story.run.starts()]
    for notice in story.notices:
        print(notice)
    yield story


def give_notice(giver: NoticeGiver, second: Command, run: RunFolder, watch: Watch, place: str) -> Notice:
    """Gives the second node notice and waits for the next start.

    A run that heard it between steps alone would stand still until the node is gone, at its deadline of 600 s: far
    longer than the wait.
    """
    num_starts = len(run.starts())
    num_answers = watch.command.stderr.count("starting again")
    giver.give(second)  # may return after the answer
    watch.until(lambda: watch.command.stderr.count("starting again") > num_answers)
    last_step = run.last_step()
    watch.until(lambda: len(run.starts()) > num_starts)
    return Notice(place, last_step, run.first_steps()[-1])


def test_no_step_is_lost(story: Story) -> None:
    assert [notice.first_step for notice in story.notices] == [notice.last_step for notice in story.notices]


def test_the_run_goes_on_with_the_workers_that_fit(story: Story) -> None:
    assert story.num_workers == [3, 1] * NUM_NOTICES


def test_each_epoch_has_each_video_once(story: Story, shards: Shards) -> None:
    expected, seen = videos_of(shards.train, num_classes=NUM_CLASSES), story.run.kept_videos()

    whole = max(seen)  # the last one was interrupted  # type: ignore[type-var]
    assert {epoch: videos for epoch, videos in seen.items() if epoch != whole} == dict.fromkeys(range(whole), expected)  # type: ignore[arg-type,call-overload]


def test_a_validation_that_was_left_is_made_up_for(story: Story) -> None:
    lines = (story.run.path / "train.log").read_text().splitlines()
    validated = [line.split()[1].split("/")[0] for line in lines if " validation on " in line]

    assert validated == [str(epoch + 1) for epoch in range(len(validated))]


def test_it_ends_as_stopped(story: Story) -> None:
    assert story.stopped is not None
    assert story.stopped.code == 143
