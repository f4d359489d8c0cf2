"""`yt8m serve` as a user starts it at a terminal, Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import BIN, Shards, free_port, is_listening
from tests.e2e.processes import Command
from tests.e2e.service import ask
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.models import build_model
from yt8m_ray.schema import FRAME_FEATURES


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = TrainConfig.model_validate(
        {"run": {"name": "any"}, "data": {"features": FRAME_FEATURES}, "model": {"name": "logistic"}}
    )
    torch.manual_seed(0)
    sizes = list(FRAME_FEATURES.values())
    model = build_model(config.model, feature_sizes=sizes, num_classes=config.data.num_classes)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_checkpoint(folder, config=config, model=model, state={}, facts={})
    return folder


@pytest.mark.parametrize("end", ["ctrl-c", pytest.param("sigterm", marks=pytest.mark.soak)])
def test_a_service_answers_until_it_is_told_to_end_and_leaves_nothing(
    checkpoint: Path, frame_shards: Shards, tmp_path: Path, end: str
) -> None:
    port = free_port()
    arguments = ("serve", str(checkpoint), "--port", str(port))

    own_cluster = {"RAY_ADDRESS": "local"}  # not one that somebody else runs on this machine
    with Command(str(BIN / "yt8m"), *arguments, folder=tmp_path, environment=own_cluster) as command:
        command.wait_until(lambda: command.stdout)
        by_json, by_record = ask(port, frame_shards.first_validation, top_k=20)
        command.press_ctrl_c() if end == "ctrl-c" else command.send(signal.SIGTERM)
        outcome = command.wait()
        leftovers = command.leftovers()

    assert by_json == by_record
    assert len(by_json["predictions"][0]["labels"]) == 20
    assert (outcome.code, outcome.stdout) == (0, f"http://127.0.0.1:{port}\n")
    assert outcome.stderr.splitlines()[-1] == "stopping; what is under way is answered"
    assert not is_listening(port)
    assert leftovers == []
