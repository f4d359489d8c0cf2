"""What listens while a command runs, and what somebody without a token gets: in a network of its own.

Where namespaces may not be made, as in some containers, there is nothing to see and the tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BIN
from tests.e2e.service import write_config
from tests.integration.conftest import FEATURE_DIM, NUM_CLASSES, Shards
from tests.support.intruder import ADDRESSES, NAMESPACE, Report

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1", "::1")
PORT = 8000  # nobody else is in that network

Besiege = Callable[..., Report]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    tools = [name for name in ("unshare", "ip") if shutil.which(name) is None]
    if tools:
        pytest.skip(f"{' and '.join(tools)} are not installed")
    tried = subprocess.run([*NAMESPACE, "sh", "-c", " && ".join(ADDRESSES)], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"a network namespace cannot be made here: {tried.stderr.strip()}")


@pytest.fixture
def besiege(tmp_path: Path) -> Besiege:
    """Returns besiege(*command, until=PORT of a service) -> Report; the command runs as for a user with a new home."""

    def run(*command: str, until: int | None = None) -> Report:
        path = tmp_path / "report.json"
        ours = ("RAY_AUTH", "RAY_ENABLE", "RAY_TMPDIR", "GLOO_", "NCCL_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        options = [str(path), *(["--until", str(until)] if until else []), "--", *command]
        inside = ["sh", "-c", " && ".join([*ADDRESSES, 'exec "$@"']), "sh"]
        ended = subprocess.run(
            [*NAMESPACE, *inside, sys.executable, "tests/support/intruder.py", *options],
            cwd=ROOT,
            env={**environment, "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,  # the demo, on a busy machine
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        report = Report(**json.loads(path.read_text()))
        assert report.code == 0, ended.stderr[-3000:]
        return report

    return run


def verb(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"jobs.{name}", *arguments]


def write_run(path: Path, shards: Shards, **sections: Any) -> str:
    """Writes the config of a small run, or of a search of such runs, and returns its path."""
    data = {"features": {"mean_rgb": FEATURE_DIM}, "num_classes": NUM_CLASSES, "normalize": "none"}
    document = {
        "output": str(path.parent),
        "run": {"name": "run"},
        "data": {**data, "train": shards.train, "validation": shards.validation},
        "model": {"name": "moe"},
        "train": {"batch_size": 64, "num_epochs": 2},
        **sections,
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


def check_closed(report: Report, *, but: str | None = None) -> None:
    """Asserts that all is on loopback and nothing was answered; `but` may listen elsewhere and ask for a token."""
    elsewhere = [found for found in report.listening if found[0] not in LOOPBACK]
    assert [found for found in elsewhere if but is None or not found[2].startswith(but)] == []
    assert {port for _, port, _ in elsewhere} <= set(report.refusing)
    assert report.answered == []
    assert len(report.refusing) >= 5  # the GCS, the raylet, its agents, the dashboard: they were asked
    (driver,) = report.drivers
    assert "ran code" not in driver


@pytest.mark.soak  # its servers are those of a run
def test_nobody_gets_into_an_inspection(besiege: Besiege, shards: Shards) -> None:
    report = besiege(*verb("inspect", shards.train, "--features", f"mean_rgb={FEATURE_DIM}", "--num-classes", "12"))

    check_closed(report)


def test_nobody_gets_into_a_training_run_of_two_workers(besiege: Besiege, shards: Shards, tmp_path: Path) -> None:
    train = {"batch_size": 64, "num_epochs": 1, "report": False}
    config = write_run(tmp_path / "train.yaml", shards, scaling={"num_workers": 2}, train=train)

    report = besiege(*verb("train", config))

    assert any("RayTrainWorker" in process for _, _, process in report.listening)  # gloo, and torch's store
    check_closed(report)
    assert "AuthenticationError" in report.drivers[0]


@pytest.mark.soak
def test_nobody_gets_into_a_search(besiege: Besiege, shards: Shards, tmp_path: Path) -> None:
    tune = {"space": {"model.num_mixtures": {"choice": [1, 2]}}, "budget": {"trials": 2}, "max_concurrent": 1}
    config = write_run(tmp_path / "tune.yaml", shards, tune=tune)

    check_closed(besiege(*verb("tune", config)))


@pytest.mark.soak
def test_nobody_gets_into_the_demo(besiege: Besiege, tmp_path: Path) -> None:
    check_closed(besiege(*verb("demo", "--output", str(tmp_path / "demo"))), but="ray::ServeReplica")


@pytest.mark.soak
@pytest.mark.parametrize("variables", ["yt8m_ray.local_cluster", "yt8m_ray.local_cluster serve.haproxy.environment"])
def test_nobody_gets_into_a_service(
    besiege: Besiege, save_tiny_checkpoint: Callable[..., Path], tmp_path: Path, variables: str
) -> None:
    config = write_config(save_tiny_checkpoint(), tmp_path / "serve.yaml", PORT)
    lines = [f'eval "$({sys.executable} -m {module})"' for module in variables.split()]

    report = besiege("sh", "-c", " && ".join([*lines, f"exec {BIN / 'serve'} run {config}"]), until=PORT)

    check_closed(report, but="ray::ServeReplica")


@pytest.mark.soak
def test_somebody_gets_into_a_cluster_without_a_token(besiege: Besiege, shards: Shards) -> None:
    """The other tests are able to fail."""
    open_cluster = ("env", "RAY_AUTH_MODE=disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1")
    report = besiege(*open_cluster, *verb("inspect", shards.train, "--features", f"mean_rgb={FEATURE_DIM}"))

    assert report.drivers == [f"ran code as {os.getuid()}"]
    assert any("gcs_server 10.99.0.2" in answer for answer in report.answered)
    assert any(address == "::" for address, _, _ in report.listening)
