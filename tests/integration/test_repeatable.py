"""The same run twice: what is equal to the last bit, and how far two workers are from that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.integration.conftest import Shards
from tests.integration.test_train import config_of
from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.training.driver.trainer import fit
from yt8m_ray.training.run.outcome import FitResult

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.soak]


def run(shards: Shards, output: Path, name: str, num_workers: int) -> FitResult:
    train = {"log_every_steps": 1, "num_epochs": 2}
    return fit(config_of(shards, output, name, train=train, scaling={"num_workers": num_workers}))


def losses(result: FitResult) -> np.ndarray:
    """Returns the loss of each step [N]."""
    history = MlflowClient(result.tracking_uri).get_metric_history(result.mlflow_run_id, "train/loss")
    by_step = {metric.step: metric.value for metric in history}
    return np.array([by_step[step] for step in sorted(by_step)])


def test_one_worker_repeats_every_loss_and_weight_to_the_last_bit(shards: Shards, tmp_path: Path) -> None:
    first, second = (run(shards, tmp_path, name, 1) for name in ("first", "second"))

    assert len(losses(first)) > 40
    assert losses(first).tolist() == losses(second).tolist()
    weights, same = (read_tensors(result.checkpoint / "model.safetensors") for result in (first, second))
    assert all(np.array_equal(weights[name].numpy(), same[name].numpy()) for name in weights)


def test_two_workers_differ_by_the_order_of_their_videos_alone(shards: Shards, tmp_path: Path) -> None:
    first, second = (run(shards, tmp_path, name, 2) for name in ("first", "second"))
    steps = min(len(losses(first)), len(losses(second)))
    difference = np.abs(losses(first)[:steps] - losses(second)[:steps]).max()
    gaps = [result.metrics["validation/gap"] for result in (first, second)]
    print(f"losses differ by up to {difference:.4f} of {losses(first)[0]:.4f}, GAP by {abs(gaps[0] - gaps[1]):.5f}")

    assert abs(len(losses(first)) - len(losses(second))) <= 4
    assert difference < 0.3 * losses(first)[0]
    assert gaps[0] == pytest.approx(gaps[1], abs=0.01)
