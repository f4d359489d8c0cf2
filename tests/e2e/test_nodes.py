"""A run on a cluster whose nodes are killed, come back and are taken away; hours of nothing else would not show more.

The second node is a raylet of its own on this machine. The run is `scaling.num_workers=[1,3]` of one CPU each: the head
has room for one worker beside the reader, the second node for two.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import BIN, NUM_CLASSES, Head, RunVerb, Shards, StartVerb, started
from tests.e2e.processes import Command, Outcome
from yt8m_ray.checkpoint import latest_checkpoint, read_manifest
from yt8m_ray.data.features import FeatureSpec
from yt8m_ray.data.reader import read_rows
from yt8m_ray.schema import VIDEO_FEATURES

pytestmark = pytest.mark.soak

EVERY_STEPS = 10
MANY = 1000


def arguments(shards: Shards, output: Path, *, num_epochs: int) -> list[str]:
    settings = f"data.num_classes={NUM_CLASSES} scaling.num_workers=[1,3] scaling.cpus_per_worker=1 train.batch_size=20"
    intervals = f"train.num_epochs={num_epochs} train.log_every_steps=10 checkpoint.every_steps={EVERY_STEPS}"
    paths = [f"output={output}", f"data.train={shards.train}", f"data.validation={shards.validation}"]
    return [*paths, *settings.split(), *intervals.split(), "run.name=run", "run.trace_videos=true", "model.name=moe"]


@contextlib.contextmanager
def node(head: Head, output: Path, *prefix: str) -> Iterator[Command]:
    """Runs a second node of 2 logical CPUs while the `with` block runs; its command line goes behind `prefix`."""
    join = ("start", "--address", head.environment["RAY_ADDRESS"], "--num-cpus=2", "--object-store-memory=200000000")
    arguments = ("--block", "--disable-usage-stats")
    line = (*prefix, str(BIN / "ray"), *join, *arguments)
    with Command(*line, folder=output, environment=head.raylet_environment) as command:
        command.wait_until(lambda: raylets(command))
        yield command


def raylets(command: Command) -> list[psutil.Process]:
    return [process for process in command.processes() if process.name() == "raylet"]


@dataclass
class Story:
    """What was seen of a run that lost a node, got one back and was told that it would lose it again."""

    run_path: Path
    lines: list[str] = field(default_factory=list)
    lost_steps: int = -1
    lost_s: float = -1.0
    undisturbed: Outcome | None = None
    stopped: Outcome | None = None
    end: Outcome | None = None

    def starts(self) -> list[str]:
        """The lines with which the starts began: `N workers on cpu, from step S`."""
        log = self.run_path / "train.log"
        return re.findall(r"^\d+ workers on .*", log.read_text(), re.MULTILINE) if log.exists() else []

    def last_step(self) -> int:
        """The last step that any start has taken."""
        return max((line["step"] for line in self.trace()), default=0)

    def trace(self) -> list[dict[str, object]]:
        paths = self.run_path.glob("videos-*.jsonl")
        return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.endswith("}")]

    def checkpoint_step(self) -> int:
        latest = latest_checkpoint(self.run_path)
        return 0 if latest is None else int(latest.name.rpartition("_")[2])


@pytest.fixture(scope="module")
def story(
    start_verb: StartVerb, run_verb: RunVerb, video_shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    output, nodes = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("nodes")
    story = Story(output / "run")
    with started(Head(num_cpus=2), nodes) as head:
        with node(head, nodes) as first:
            command = start_verb("train", *arguments(video_shards, output, num_epochs=MANY), **head.environment)
            with command:
                command.wait_until(lambda: len(story.starts()) == 1 and story.checkpoint_step() > 2 * EVERY_STEPS)
                for raylet in raylets(first):
                    raylet.send_signal(signal.SIGKILL)
                killed = time.monotonic()
                time.sleep(0.5)
                before = story.last_step()
                story.lost_steps = before - story.checkpoint_step()
                command.wait_until(lambda: len(story.starts()) == 2 and story.checkpoint_step() >= before)
                story.lost_s = time.monotonic() - killed
                with node(head, nodes) as second:
                    command.wait_until(lambda: len(story.starts()) == 3)
                    step = story.checkpoint_step()
                    command.wait_until(lambda: story.checkpoint_step() > step + EVERY_STEPS)
                    drain(head, second)
                    command.wait_until(lambda: len(story.starts()) == 4)
                    step = story.checkpoint_step()
                    command.wait_until(lambda: story.checkpoint_step() > step)
                    command.send(signal.SIGTERM)
                    story.stopped = command.wait()
        latest = latest_checkpoint(story.run_path)
        assert latest is not None
        num_epochs = int(latest.name.split("_")[1]) + 1
        story.end = run_verb("train", *arguments(video_shards, output, num_epochs=num_epochs), **head.environment)
        undisturbed = arguments(video_shards, tmp_path_factory.mktemp("undisturbed"), num_epochs=num_epochs)
        story.undisturbed = run_verb("train", *undisturbed, "checkpoint.every_steps=null", **head.environment)
    print(f"lost: {story.lost_steps} steps, {story.lost_s:.1f} s; {num_epochs} epochs; {story.starts()}")
    return story


def drain(head: Head, second: Command) -> None:
    """Gives the second node notice, as a cloud does that takes it back."""
    (raylet,) = raylets(second)
    found = re.search(r"--node_id=(\w+)", " ".join(raylet.cmdline())) or re.search(
        r"--node-id=(\w+)", " ".join(raylet.cmdline())
    )
    assert found is not None, raylet.cmdline()
    reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back")
    ending = ("--node-id", found[1], "--deadline-remaining-seconds", "600")
    with Command(
        *(str(BIN / "ray"), "drain-node", "--address", head.environment["RAY_ADDRESS"], *reason, *ending),
        folder=Path(os.environ.get("TMPDIR", "/tmp")),
        environment=head.raylet_environment,
    ) as command:
        outcome = command.wait()
    assert outcome.code == 0, outcome.stderr


def test_the_run_goes_on_with_the_workers_that_fit(story: Story) -> None:
    assert [int(line.split()[0]) for line in story.starts()[:4]] == [3, 1, 3, 1]


def test_a_killed_node_costs_at_most_the_steps_since_the_last_checkpoint(story: Story) -> None:
    assert 0 <= story.lost_steps <= EVERY_STEPS


def test_the_time_lost_is_detection_and_a_start(story: Story) -> None:
    assert story.lost_s < 180  # 40 s on a quiet machine


def test_growing_and_notice_cost_no_step(story: Story) -> None:
    ends = last_steps(story)
    firsts = [int(line.rpartition(" ")[2]) for line in story.starts()]

    assert firsts[2] == ends[1]  # the third start goes on where the second has ended
    assert firsts[3] == ends[2]
    assert firsts[4] == ends[3]


def last_steps(story: Story) -> list[int]:
    """Returns the last step of each start, in their order."""
    ends: dict[float, int] = {}
    for line in story.trace():
        began, step = line["started"], line["step"]
        assert isinstance(began, float) and isinstance(step, int)
        ends[began] = max(ends.get(began, 0), step)
    return [ends[began] for began in sorted(ends)]


def test_it_ends_as_stopped_and_then_well(story: Story) -> None:
    assert story.stopped is not None and story.end is not None
    assert story.stopped.code == 143
    assert story.stopped.stderr.splitlines()[-1] == "terminated"
    assert story.end.code == 0, story.end.stderr


def test_each_epoch_has_each_video_once(story: Story, video_shards: Shards) -> None:
    spec = FeatureSpec(VIDEO_FEATURES, num_classes=NUM_CLASSES)
    expected = sorted(row.video_id for path in glob.glob(video_shards.train) for _, row in read_rows(path, spec))
    firsts = [int(line.rpartition(" ")[2]) for line in story.starts()]
    begins = sorted({line["started"] for line in story.trace()})  # type: ignore[type-var]
    assert len(begins) == len(firsts)
    next_first = dict(zip(begins, [*firsts[1:], 10**9], strict=True))
    seen: dict[object, list[str]] = {}
    for line in story.trace():
        step, videos = line["step"], line["videos"]
        assert isinstance(step, int) and isinstance(videos, list)
        if step <= next_first[line["started"]]:
            seen.setdefault(line["epoch"], []).extend(videos)

    assert {epoch: sorted(videos) for epoch, videos in seen.items()} == dict.fromkeys(range(len(seen)), expected)


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
