"""A second node beside a head, notices that it is to go, and what a run's folder says of its starts."""

from __future__ import annotations

import contextlib
import glob
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.e2e.conftest import BIN, NUM_CLASSES, Head, Shards
from tests.e2e.processes import Command
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.schema import VIDEO_FEATURES


@contextlib.contextmanager
def node(head: Head, output: Path, *prefix: str) -> Iterator[Command]:
    """Runs a second node of 2 logical CPUs while the `with` block runs; its command line goes behind `prefix`."""
    join = ("start", "--address", head.environment["RAY_ADDRESS"], "--num-cpus=2", "--object-store-memory=200000000")
    arguments = ("--block", "--disable-usage-stats")
    line = (*prefix, str(BIN / "ray"), *join, *arguments)
    with Command(*line, folder=output, environment=head.raylet_environment) as command:
        # The raylet is there seconds before the cluster counts it: a run that starts between has fewer workers.
        command.wait_until(lambda: "Ray runtime started" in command.stdout)
        yield command


def raylets(command: Command) -> list[psutil.Process]:
    return [process for process in command.processes() if process.name() == "raylet"]


_GIVE_NOTICE = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

client = GcsClient(address=sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = time.time_ns() // 1_000_000 + 600_000
    print(client.drain_node(line.strip(), reason, "taken back", deadline_ms)[0], flush=True)
"""
"""What `ray drain-node` does, in a process that is ready before: the moment counts."""


class NoticeGiver:
    """Tells a cluster which of its nodes is to go, as a cloud does that takes it back."""

    def __init__(self, head: Head) -> None:
        environment = {**head.environment, "PATH": head.raylet_environment["PATH"]}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _GIVE_NOTICE, head.environment["RAY_ADDRESS"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._ask("") == "ready"

    def give(self, second: Command) -> None:
        """Gives a node notice that it has 10 minutes left."""
        (raylet,) = raylets(second)
        found = re.search(r"--node[_-]id=(\w+)", " ".join(raylet.cmdline()))
        assert found is not None, raylet.cmdline()
        assert self._ask(f"{found[1]}\n") == "True"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@dataclass
class RunFolder:
    """What the folder of a run with `run.trace_videos` says of its starts."""

    path: Path

    def starts(self) -> list[str]:
        """The lines with which the starts began: `N workers on cpu, from step S; ...`, without their time."""
        log = self.path / "train.log"
        return (
            re.findall(r"^\S+ \S+ (\d+ workers? on \w+, from step \d+);", log.read_text(), re.M) if log.exists() else []
        )

    def first_steps(self) -> list[int]:
        """The step that each start went on from."""
        return [int(line.rpartition(" ")[2]) for line in self.starts()]

    def trace(self) -> list[dict[str, object]]:
        paths = self.path.glob("videos-*.jsonl")
        return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.endswith("}")]

    def last_step(self) -> int:
        """The last step that any start has taken."""
        return max((line["step"] for line in self.trace()), default=0)  # type: ignore[type-var,return-value]

    def last_steps(self) -> list[int]:
        """The last step of each start that took one, in their order."""
        ends: dict[float, int] = {}
        for line in self.trace():
            began, step = line["started"], line["step"]
            assert isinstance(began, float) and isinstance(step, int)
            ends[began] = max(ends.get(began, 0), step)
        return [ends[began] for began in sorted(ends)]

    def checkpoint_step(self) -> int:
        latest = latest_checkpoint(self.path)
        return 0 if latest is None else int(latest.name.rpartition("_")[2])

    def kept_videos(self) -> dict[object, list[str]]:
        """The videos of each epoch that the last weights come from, sorted: a start's, up to where a later began."""
        lines, seen, end = self.trace(), dict[object, list[str]](), 10**9
        for began in sorted({line["started"] for line in lines}, reverse=True):  # type: ignore[type-var]
            mine = [line for line in lines if line["started"] == began]
            for line in mine:
                step, videos = line["step"], line["videos"]
                assert isinstance(step, int) and isinstance(videos, list)
                if step < end:
                    seen.setdefault(line["epoch"], []).extend(videos)
            end = min(end, *(line["step"] for line in mine))  # type: ignore[type-var]
        return {epoch: sorted(videos) for epoch, videos in seen.items()}


def videos_of(pattern: str, *, num_classes: int) -> list[str]:
    """Returns the ids of all videos of video-level shards, sorted."""
    spec = FeatureSpec(VIDEO_FEATURES, num_classes=num_classes)
    return sorted(row.video_id for path in glob.glob(pattern) for _, row in read_rows(path, spec))


def elastic_run(
    shards: Shards, output: Path, *more: str, num_epochs: int, every_steps: int, num_classes: int = NUM_CLASSES
) -> list[str]:
    """Returns the arguments of `jobs.train` for a run of one to three workers, whose steps are traced."""
    settings = f"data.num_classes={num_classes} scaling.num_workers=[1,3] scaling.cpus_per_worker=1 train.batch_size=20"
    intervals = f"train.num_epochs={num_epochs} train.log_every_steps=10 checkpoint.every_steps={every_steps}"
    paths = [f"output={output}", f"data.train={shards.train}", f"data.validation={shards.validation}"]
    fixed = "run.name=run run.trace_videos=true model.name=moe"
    return [*paths, *settings.split(), *intervals.split(), *fixed.split(), *more]
