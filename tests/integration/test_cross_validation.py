"""All folds of a run on one cluster: what is predicted, what is not done twice, and a fold that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.integration.conftest import FEATURE_DIM, NUM_CLASSES, Shards
from yt8m_ray.artifacts.checkpoint_folders import latest_checkpoint
from yt8m_ray.artifacts.folder_manifest import folder_version
from yt8m_ray.cluster import map_tasks
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.training.cross_validation import cross_validate, folds_of

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def config(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "output": str(tmp_path_factory.mktemp("runs")),
            "run": {"name": "small"},
            "data": {
                "train": shards.train,
                "folds": 2,
                "features": {"mean_rgb": FEATURE_DIM},
                "num_classes": NUM_CLASSES,
            },
            "model": {"name": "moe"},
            "train": {"batch_size": 64, "num_epochs": 1, "report": False},
            "optimizer": {"learning_rate": 0.03},
        }
    )


@pytest.fixture(scope="module")
def report(config: TrainConfig) -> dict[str, Any]:
    return cross_validate(folds_of(config))


@pytest.mark.soak
def test_every_video_is_predicted_once_by_the_fold_that_had_not_seen_it(report: dict[str, Any], shards: Shards) -> None:
    ids = pq.read_table(report["predictions"])["video_id"].to_pylist()
    of_folds = [pq.read_table(fold["predictions"])["video_id"].to_pylist() for fold in report["folds"]]

    assert len(set(ids)) == len(ids) == shards.num_train
    assert [len(part) for part in of_folds] == [fold["num_videos"] for fold in report["folds"]]
    assert [name for part in of_folds for name in part] == ids


@pytest.mark.soak
def test_the_report_has_the_gap_of_each_fold_and_of_all_videos(report: dict[str, Any]) -> None:
    first, second = (fold["gap"] for fold in report["folds"])

    for fold in report["folds"]:
        manifest = json.loads((Path(fold["checkpoint"]) / "manifest.json").read_text())
        assert fold["gap"] == pytest.approx(manifest["metrics"]["validation/gap"], abs=1e-5)
    assert report["mean_gap"] == pytest.approx((first + second) / 2)
    assert report["gap_standard_deviation"] == pytest.approx(abs(first - second) / 2**0.5)
    assert report["out_of_fold"]["num_videos"] == sum(fold["num_videos"] for fold in report["folds"])


@pytest.mark.soak
def test_predictions_of_another_checkpoint_of_the_same_name_are_not_taken(report: dict[str, Any]) -> None:
    for fold in report["folds"]:
        assert folder_version(fold["checkpoint"]) in Path(fold["predictions"]).name


@pytest.mark.soak
def test_the_same_call_trains_nothing_again_and_a_failed_fold_names_itself(
    report: dict[str, Any], config: TrainConfig
) -> None:
    folder = Path(config.output) / "small-fold1"
    before = latest_checkpoint(Path(config.output) / "small-fold0")
    (folder / "run.json").write_text("spoilt")
    for checkpoint in folder.glob("epoch_*"):
        (checkpoint / "manifest.json").unlink()

    again = cross_validate(folds_of(config), num_parallel=1)

    finished, failed = again["folds"]
    assert finished == report["folds"][0]
    assert before == latest_checkpoint(Path(config.output) / "small-fold0")
    assert (failed["run"], again["num_failed"], again["predictions"]) == ("small-fold1", 1, None)
    assert "error" in failed


def _inverse(number: int) -> float:
    return 1 / number


def _minus(index: int, error: BaseException) -> float:
    assert isinstance(error, ZeroDivisionError)
    return -float(index)


def test_an_items_error_can_be_its_result() -> None:
    results = map_tasks(_inverse, [1, 0, 2], num_cpus=0.01, on_error=_minus)

    assert dict(results) == {0: 1.0, 1: -1.0, 2: 0.5}
