from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.integration.conftest import FEATURE_DIM, NUM_CLASSES, Shards
from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.config.document import override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.evaluate import evaluate_shards
from yt8m_ray.inference.evaluation_config import evaluation_config
from yt8m_ray.training.driver.trainer import fit
from yt8m_ray.training.run.outcome import FitResult

pytestmark = pytest.mark.usefixtures("ray_cluster")


def config_of(shards: Shards, output: Path, name: str, **sections: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "output": str(output),
            "run": {"name": name, **sections.pop("run", {})},
            "data": {
                "train": shards.train,
                "validation": shards.validation,
                "features": {"mean_rgb": FEATURE_DIM},
                "num_classes": NUM_CLASSES,
                "shuffle_window": 64,
                **sections.pop("data", {}),
            },
            "model": {"name": "moe"},
            "train": {"batch_size": 32, "num_epochs": 4, "report": False, **sections.pop("train", {})},
            "optimizer": {"learning_rate": 0.03},
            "scaling": {"num_workers": 2, **sections.pop("scaling", {})},
            **sections,
        }
    )


def state_of(checkpoint: Path) -> tuple[dict[str, int], Position]:
    tensors = read_tensors(checkpoint / "state.safetensors")
    counters = {name.removeprefix("progress."): int(t) for name, t in tensors.items() if name.startswith("progress.")}
    arrays = {name.removeprefix("position."): t.numpy() for name, t in tensors.items() if name.startswith("position.")}
    return counters, Position.from_arrays(arrays)


@pytest.fixture(scope="module")
def two_workers(shards: Shards, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A run of two workers over four epochs, undisturbed, whose shards are what their manifest says."""
    changes = {"data": {"manifest": str(manifest)}, "train": {"report": True}}
    return fit(config_of(shards, tmp_path_factory.mktemp("runs"), "two", **changes))


def test_two_workers_validate_every_video(two_workers: FitResult, shards: Shards) -> None:
    assert two_workers.metrics["validation/num_videos"] == shards.num_validation


def test_two_workers_train_on_every_video_of_every_epoch(two_workers: FitResult, shards: Shards) -> None:
    latest = latest_checkpoint(two_workers.run_path)
    assert latest is not None
    assert state_of(latest)[0]["num_examples"] == 4 * shards.num_train


@pytest.mark.soak
def test_two_workers_and_one_reach_the_same_gap(two_workers: FitResult, shards: Shards, tmp_path: Path) -> None:
    one = fit(config_of(shards, tmp_path, "one", scaling={"num_workers": 1}))

    assert one.metrics["validation/gap"] > 0.8
    assert two_workers.metrics["validation/gap"] == pytest.approx(one.metrics["validation/gap"], abs=0.005)


def test_evaluating_the_checkpoint_gives_the_gap_of_training(two_workers: FitResult, shards: Shards) -> None:
    changes = {"data.test": shards.validation, "scaling.num_workers": 2}
    config = override(evaluation_config(two_workers.checkpoint), changes)

    shards_to_read = expand_shards(config.data.test, key="data.test")
    metrics = evaluate_shards(two_workers.checkpoint, shards_to_read, config)

    assert metrics["num_videos"] == shards.num_validation
    for name in ("gap", "hit_at_1", "perr", "mean_ap"):
        assert metrics[name] == pytest.approx(two_workers.metrics[f"validation/{name}"], abs=1e-6)
    assert metrics["loss"] == pytest.approx(two_workers.metrics["validation/loss"], rel=1e-5)


def test_mlflow_has_parameters_curves_and_the_checkpoint(two_workers: FitResult) -> None:
    client = MlflowClient(two_workers.tracking_uri)
    run = client.get_run(two_workers.mlflow_run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "32"
    assert len(client.get_metric_history(run.info.run_id, "validation/gap")) == 4
    expected = {"train/loss", "train/videos_per_s", "train/input_wait_fraction"}
    expected |= {f"validation/{name}" for name in ("gap", "hit_at_1", "perr", "mean_ap", "loss")}
    assert expected <= run.data.metrics.keys()
    names = {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "checkpoint")}
    files = {"config.yaml", "model.safetensors", "state.safetensors", "validation.safetensors", "manifest.json"}
    assert names == files
    assert "report/report.html" in [item.path for item in client.list_artifacts(run.info.run_id, "report")]


@pytest.mark.soak
def test_one_shard_keeps_two_workers_busy(shards: Shards, tmp_path: Path) -> None:
    one_shard = {"train": shards.train.replace("*", "0009"), "validation": None}
    train = {"num_epochs": 1, "batch_size": 8, "log_every_steps": 1000}

    result = fit(config_of(shards, tmp_path, "shard", data=one_shard, train=train))

    latest = latest_checkpoint(result.run_path)
    assert latest is not None
    counters, _ = state_of(latest)
    assert counters["num_examples"] == 88
    assert counters["step"] <= 88 / 8 + 3  # a worker without videos would double the 11 steps
    assert result.metrics["train/loss"] > 0


def test_a_finished_run_says_so_and_stays(
    two_workers: FitResult, shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        again = fit(config_of(shards, two_workers.run_path.parent, "two"))

    assert "finished already" in caplog.text
    assert again.checkpoint == two_workers.checkpoint


@pytest.mark.soak  # in `make test`, tests/e2e/test_interruptions.py stops a whole command inside an epoch
def test_a_run_stopped_inside_an_epoch_continues_there(shards: Shards, tmp_path: Path, two_workers: FitResult) -> None:
    def config(num_workers: int, **train: int) -> TrainConfig:
        scaling = {"num_workers": num_workers}
        return config_of(shards, tmp_path, "stopped", train=train, scaling=scaling, run={"trace_videos": True})

    fit(config(2, max_steps=30))
    stopped = latest_checkpoint(tmp_path / "stopped")
    assert stopped is not None
    before, position = state_of(stopped)
    finished = fit(config(1))  # another number of workers

    assert before["step"] == 30
    assert 0 < position.num_done == before["num_examples_in_epoch"] < shards.num_train
    latest = latest_checkpoint(tmp_path / "stopped")
    assert latest is not None
    after, _ = state_of(latest)
    assert after["num_examples"] == 4 * shards.num_train
    # Adam's step counter continued, so its moments were taken over.
    tensors = read_tensors(latest / "state.safetensors")
    assert {int(t) for name, t in tensors.items() if name.startswith("optimizer.step.")} == {after["step"]}
    assert finished.metrics["validation/gap"] == pytest.approx(two_workers.metrics["validation/gap"], abs=0.005)
    check_trace(tmp_path / "stopped", shards)


def check_trace(run_path: Path, shards: Shards) -> None:
    """Asserts that the steps of each epoch have seen each video of the shards once."""
    spec = FeatureSpec({"mean_rgb": FEATURE_DIM}, num_classes=NUM_CLASSES)
    paths = expand_shards(shards.train, key="data.train")
    expected = sorted(row.video_id for path in paths for _, row in read_rows(path, spec))
    seen: dict[int, list[str]] = {}
    for path in run_path.glob("videos-*.jsonl"):
        for line in path.read_text().splitlines():
            step = json.loads(line)
            seen.setdefault(step["epoch"], []).extend(step["videos"])
    assert {epoch: sorted(videos) for epoch, videos in seen.items()} == dict.fromkeys(range(4), expected)


def test_a_killed_worker_costs_no_video(shards: Shards, tmp_path: Path) -> None:
    config = config_of(shards, tmp_path, "killed", train={"num_epochs": 2}, checkpoint={"every_steps": 5})
    killer = threading.Thread(target=_kill_a_worker_after_a_checkpoint, args=(tmp_path / "killed",), daemon=True)
    killer.start()

    result = fit(config)

    killer.join(timeout=1)
    assert not killer.is_alive(), "no worker was killed"
    latest = latest_checkpoint(result.run_path)
    assert latest is not None
    assert state_of(latest)[0]["num_examples"] == 2 * shards.num_train
    assert "continuing from" in (result.run_path / "train.log").read_text()


def _kill_a_worker_after_a_checkpoint(run_path: Path) -> None:
    import psutil

    while not latest_checkpoint(run_path):
        time.sleep(0.2)
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if any("RayTrainWorker" in part for part in process.cmdline())
    ]
    os.kill(workers[-1].pid, signal.SIGKILL)


def test_workers_that_do_not_fit_the_cluster_are_refused_with_the_numbers(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scaling: 3 workers of 2 CPUs and a reader .* cluster's 4 logical CPUs"):
        fit(config_of(shards, tmp_path, "large", scaling={"num_workers": 3, "cpus_per_worker": 2}))
