"""Runs whose checkpoints cannot be written for a while: the kernel refuses files of the workers beyond a size."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import Shards
from tests.integration.test_train import config_of, state_of
from yt8m_ray.checkpoint import latest_checkpoint, load_model
from yt8m_ray.training.checkpoints import CheckpointWriteError
from yt8m_ray.training.trainer import fit

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_EPOCHS = 3


def limit_files(num_bytes: int) -> None:
    """Lets the workers write files of so many bytes at most."""
    for process in psutil.Process().children(recursive=True):
        if any("RayTrainWorker" in part for part in process.cmdline()):
            process.rlimit(psutil.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.05)


def log_of(run_path: Path) -> str:
    path = run_path / "train.log"
    return path.read_text() if path.exists() else ""


def test_a_run_that_may_goes_on_and_writes_the_next_checkpoint(shards: Shards, tmp_path: Path) -> None:
    run = tmp_path / "full"

    def fill_the_disk_for_a_while() -> None:
        wait_for(lambda: latest_checkpoint(run))
        limit_files(500)
        wait_for(lambda: "the run goes on without it" in log_of(run))
        limit_files(resource.RLIM_INFINITY)

    filler = threading.Thread(target=fill_the_disk_for_a_while, daemon=True)
    filler.start()
    checkpoint = {"every_steps": 3, "on_write_error": "continue"}

    result = fit(config_of(shards, tmp_path, "full", train={"num_epochs": NUM_EPOCHS}, checkpoint=checkpoint))

    filler.join(timeout=1)
    assert not filler.is_alive(), "no write failed"
    latest = latest_checkpoint(result.run_path)
    assert latest is not None
    assert state_of(latest)[0]["num_examples"] == NUM_EPOCHS * shards.num_train
    assert log_of(run).count("workers on") == 1
    assert f"{run}/epoch_" in log_of(run)
    assert "cannot be written: [Errno 27] File too large" in log_of(run)


@pytest.mark.soak
def test_a_run_that_may_not_ends_with_the_reason_and_its_last_checkpoint(shards: Shards, tmp_path: Path) -> None:
    run = tmp_path / "full"

    def fill_the_disk() -> None:
        wait_for(lambda: latest_checkpoint(run))
        limit_files(500)

    threading.Thread(target=fill_the_disk, daemon=True).start()

    with pytest.raises(CheckpointWriteError, match=r"full/epoch_.*: .*File too large; the last one is"):
        fit(config_of(shards, tmp_path, "full", train={"num_epochs": 20}, checkpoint={"every_steps": 3}))

    latest = latest_checkpoint(run)
    assert latest is not None
    load_model(latest)
