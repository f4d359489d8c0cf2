"""What the end-to-end tests share: a way to run a verb, small shards made by `jobs.synthesize`, a cluster to join."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.processes import Command, Outcome
from tests.support.warm import WarmPython

BIN = Path(sys.executable).parent
NUM_CLASSES = 8

StartVerb = Callable[..., Command]
RunVerb = Callable[..., Outcome]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session", autouse=True)
def terminal() -> None:
    """Lets commands hear Ctrl-C: they would inherit the deafness of tests that a shell runs in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def start_verb(terminal: None, warm_python: WarmPython, tmp_path_factory: pytest.TempPathFactory) -> StartVerb:
    """Returns start(verb, *arguments, **environment), for a `with` block.

    The command and its workers of Ray are forks whose imports are done.
    """
    folder = tmp_path_factory.mktemp("output")

    def start(verb: str, *arguments: str, **environment: str) -> Command:
        line, environment = (sys.executable, "-m", f"jobs.{verb}", *arguments), warm_python.for_workers | environment
        return Command(*line, folder=folder, environment=environment, warm=warm_python)

    return start


@pytest.fixture(scope="session")
def run_verb(start_verb: StartVerb) -> RunVerb:
    """Returns run(verb, *arguments, **environment) -> Outcome."""

    def run(verb: str, *arguments: str, **environment: str) -> Outcome:
        with start_verb(verb, *arguments, **environment) as command:
            return command.wait()

    return run


@dataclass(frozen=True)
class Head:
    """A cluster as `ray start --head` starts it, with the dashboard, behind a token."""

    num_cpus: int = 8
    gcs_port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to join it, or to submit to it."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_ADDRESS": f"127.0.0.1:{self.gcs_port}",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard_port}",
        }

    @property
    def raylet_environment(self) -> dict[str, str]:
        """What the programs of the cluster itself need."""
        variables = {name: value for name, value in self.environment.items() if name.startswith("RAY_AUTH")}
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"  # nodes join it
        return {**variables, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}  # `python` in a job is the cluster's

    def get(self, path: str) -> bytes:
        """Returns what the dashboard's REST API answers."""
        url = f"http://127.0.0.1:{self.dashboard_port}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            body: bytes = response.read()
        return body

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/api/jobs/") == b"[]"
        return False


@pytest.fixture(scope="session")
def head(terminal: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Starts a cluster for all tests whose commands join one."""
    with started(Head(), tmp_path_factory.mktemp("head")) as head:
        yield head


@contextlib.contextmanager
def started(head: Head, output: Path) -> Iterator[Head]:
    """Runs a cluster while the `with` block runs."""
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "two clusters on one machine disturb each other"
    folder = Path(tempfile.mkdtemp(prefix="ray_"))  # paths of Unix sockets have to be short
    options = {
        "--port": head.gcs_port,
        "--dashboard-port": head.dashboard_port,
        "--dashboard-agent-listen-port": free_port(),
        "--num-cpus": head.num_cpus,
        "--object-store-memory": 500_000_000,
        "--temp-dir": folder,
    }
    arguments = [f"{name}={value}" for name, value in options.items()]
    with Command(
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", *arguments),
        folder=output,
        environment=head.raylet_environment,
    ) as command:
        command.wait_until(head.is_ready)
        yield head
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Shards:
    """Globs of two splits."""

    train: str
    validation: str

    @property
    def first_train(self) -> str:
        return min(glob.glob(self.train))

    @property
    def first_validation(self) -> str:
        return min(glob.glob(self.validation))


@pytest.fixture(scope="session")
def frame_shards(run_verb: RunVerb, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Frame-level shards: 4 of 24 videos to train on, 2 of 24 to validate."""
    return _synthesize(run_verb, tmp_path_factory.mktemp("frame"), "frame", {"train": (4, 24), "validate": (2, 24)})


@pytest.fixture(scope="session")
def video_shards(run_verb: RunVerb, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Video-level shards: 6 of 100 videos to train on, 2 of 200 to validate."""
    return _synthesize(run_verb, tmp_path_factory.mktemp("video"), "video", {"train": (6, 100), "validate": (2, 200)})


def _synthesize(run_verb: RunVerb, folder: Path, kind: str, splits: dict[str, tuple[int, int]]) -> Shards:
    for split, (num_shards, num_videos) in splits.items():
        flags = f"--kind {kind} --split {split} --num-shards {num_shards} --videos-per-shard {num_videos}"
        flags += f" --num-classes {NUM_CLASSES} --min-frames 8 --max-frames 16 --seed 3"
        outcome = run_verb("synthesize", "--output", str(folder / split), *flags.split())
        assert outcome.code == 0, outcome.stderr
        assert outcome.result == str(folder / split)
    return Shards(*(str(folder / split / "*.tfrecord") for split in splits))
