"""A run on a cluster whose nodes are killed, come back and are taken away; hours of nothing else would not show more.

The second node is a raylet of its own on this machine. The run is `scaling.num_workers=[1,3]` of one CPU each: the head
has room for one worker beside the reader, the second node for two.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import NUM_CLASSES, Head, RunVerb, Shards, StartVerb, started
from tests.e2e.nodes import NoticeGiver, RunFolder, elastic_run, node, raylets, videos_of
from tests.e2e.processes import Outcome
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.artifacts.folder_manifest import read_manifest

pytestmark = pytest.mark.soak

EVERY_STEPS = 10
MANY = 1000


def arguments(shards: Shards, output: Path, *, num_epochs: int) -> list[str]:
    return elastic_run(shards, output, num_epochs=num_epochs, every_steps=EVERY_STEPS)


@dataclass
class Story(RunFolder):
    """What was seen of a run that lost a node, got one back and was told that it would lose it again."""

    lost_steps: int = -1
    undisturbed: Outcome | None = None
    stopped: Outcome | None = None
    end: Outcome | None = None


@pytest.fixture(scope="module")
def story(
    start_verb: StartVerb, run_verb: RunVerb, video_shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    output, nodes = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("nodes")
    story = Story(output / "run")
    with started(Head(num_cpus=2), nodes) as head, contextlib.closing(NoticeGiver(head)) as notices:
        with node(head, nodes) as first:
            command = start_verb("train", *arguments(video_shards, output, num_epochs=MANY), **head.environment)
            with command:
                command.wait_until(lambda: len(story.starts()) == 1 and story.checkpoint_step() > 2 * EVERY_STEPS)
                for raylet in raylets(first):
                    raylet.send_signal(signal.SIGKILL)
                time.sleep(0.5)
                before = story.last_step()
                story.lost_steps = before - story.checkpoint_step()
                command.wait_until(lambda: len(story.starts()) == 2 and story.checkpoint_step() >= before)
                with node(head, nodes) as second:
                    command.wait_until(lambda: len(story.starts()) == 3)
                    step = story.checkpoint_step()
                    command.wait_until(lambda: story.checkpoint_step() > step + EVERY_STEPS)
                    notices.give(second)
                    command.wait_until(lambda: len(story.starts()) == 4)
                    step = story.checkpoint_step()
                    command.wait_until(lambda: story.checkpoint_step() > step)
                    command.send(signal.SIGTERM)
                    story.stopped = command.wait()
        latest = latest_checkpoint(story.path)
        assert latest is not None
        num_epochs = int(latest.name.split("_")[1]) + 1
        story.end = run_verb("train", *arguments(video_shards, output, num_epochs=num_epochs), **head.environment)
        undisturbed = arguments(video_shards, tmp_path_factory.mktemp("undisturbed"), num_epochs=num_epochs)
        story.undisturbed = run_verb("train", *undisturbed, "checkpoint.every_steps=null", **head.environment)
    print(f"lost: {story.lost_steps} steps; {num_epochs} epochs; {story.starts()}")
    return story


def test_the_run_goes_on_with_the_workers_that_fit(story: Story) -> None:
    assert [int(line.split()[0]) for line in story.starts()[:4]] == [3, 1, 3, 1]


def test_a_killed_node_costs_at_most_the_steps_since_the_last_checkpoint(story: Story) -> None:
    assert 0 <= story.lost_steps <= EVERY_STEPS


def test_growing_and_notice_cost_no_step(story: Story) -> None:
    ends, firsts = story.last_steps(), story.first_steps()

    assert firsts[2] == ends[1]  # the third start goes on where the second has ended
    assert firsts[3] == ends[2]
    assert firsts[4] == ends[3]


def test_it_ends_as_stopped_and_then_well(story: Story) -> None:
    assert story.stopped is not None and story.end is not None
    assert story.stopped.code == 143
    assert story.stopped.stderr.splitlines()[-1] == "terminated"
    assert story.end.code == 0, story.end.stderr


def test_each_epoch_has_each_video_once(story: Story, video_shards: Shards) -> None:
    expected, seen = videos_of(video_shards.train, num_classes=NUM_CLASSES), story.kept_videos()

    assert seen == dict.fromkeys(range(len(seen)), expected)


def test_it_is_as_good_as_an_undisturbed_run(story: Story) -> None:
    assert story.end is not None and story.undisturbed is not None
    gap: Callable[[Outcome], float] = lambda outcome: float(  # noqa: E731
        read_manifest(outcome.result, kind="checkpoint")["metrics"]["validation/gap"]  # type: ignore[index]
    )
    assert gap(story.end) == pytest.approx(gap(story.undisturbed), abs=0.005)


def test_a_folder_that_the_nodes_do_not_share_is_refused(
    run_verb: RunVerb, video_shards: Shards, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    output.mkdir()
    hide = ("unshare", "--mount", "bash", "-c", f'mount -t tmpfs none {output} && exec "$@"', "node")
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("only root can hide a folder from a node")
    with started(Head(num_cpus=2), tmp_path) as head, node(head, tmp_path, *hide) as second:
        second.wait_until(lambda: len(json.loads(head.get("/nodes?view=summary"))["data"]["summary"]) == 2)
        outcome = run_verb("train", *arguments(video_shards, output, num_epochs=1), **head.environment)

    assert outcome.code == 2
    assert f"error: output: {output} is not the same folder on all 2 nodes" in outcome.stderr
    assert "s3://BUCKET/FOLDER" in outcome.stderr
