"""Runs whose disk is full for a while."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Shards
from tests.integration.test_train import config_of, state_of
from yt8m_ray.artifacts.checkpoint import load_model
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.training.driver.trainer import fit
from yt8m_ray.training.run.checkpoints import CheckpointWriteError

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_EPOCHS = 3


class Disk:
    """A disk of one MB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.path / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    def free(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.05)


def config(shards: Shards, disk: Disk, num_epochs: int, **checkpoint: Any) -> TrainConfig:
    tracking = {"uri": f"sqlite:///{disk.path.parent}/mlflow.db"}
    train, checkpoint = {"num_epochs": num_epochs}, {"every_steps": 3, **checkpoint}
    return config_of(shards, disk.path, "run", train=train, checkpoint=checkpoint, tracking=tracking)


@pytest.mark.soak
def test_a_run_that_may_goes_on_and_writes_the_next_checkpoint(
    shards: Shards, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def fill_the_disk_for_a_while() -> None:
        wait_for(lambda: latest_checkpoint(disk.path / "run"))
        disk.fill()
        wait_for(lambda: "the run goes on without it" in caplog.text)
        disk.free()

    filler = threading.Thread(target=fill_the_disk_for_a_while, daemon=True)
    filler.start()

    result = fit(config(shards, disk, NUM_EPOCHS, on_write_error="continue"))

    filler.join(timeout=1)
    assert not filler.is_alive(), "no write failed"
    latest = latest_checkpoint(result.run_path)
    assert latest is not None
    assert state_of(latest)[0]["num_examples"] == NUM_EPOCHS * shards.num_train
    assert len(re.findall("workers? on cpu", caplog.text)) == 1
    assert f"{disk.path}/run/epoch_0" in caplog.text
    assert "the checkpoint cannot be written: " in caplog.text and "No space left on device" in caplog.text


@pytest.mark.soak
def test_a_run_that_may_not_ends_with_the_reason_and_its_last_checkpoint(shards: Shards, disk: Disk) -> None:
    def fill_the_disk() -> None:
        wait_for(lambda: latest_checkpoint(disk.path / "run"))
        disk.fill()

    threading.Thread(target=fill_the_disk, daemon=True).start()

    with pytest.raises(CheckpointWriteError, match=r"run/epoch_.*No space left on device.*; the last one is epoch_"):
        fit(config(shards, disk, 20))

    latest = latest_checkpoint(disk.path / "run")
    assert latest is not None
    load_model(latest)
