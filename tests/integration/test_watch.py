"""Scoring the checkpoints of a run that goes on meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import FEATURE_DIM, NUM_CLASSES, Shards
from yt8m_ray.artifacts.checkpoint_folders import checkpoint_name
from yt8m_ray.artifacts.folder_manifest import NoSuchFolderError
from yt8m_ray.errors import NoShardsError
from yt8m_ray.inference.batch import evaluate
from yt8m_ray.inference.batch.evaluate import watch

Save = Callable[..., Path]


@pytest.fixture
def save(save_tiny_checkpoint: Save, tmp_path: Path) -> Callable[[int], Path]:
    (tmp_path / "run").mkdir()
    data = {"features": {"mean_rgb": FEATURE_DIM}, "num_classes": NUM_CLASSES, "max_frames": 300}
    return lambda step: save_tiny_checkpoint(f"run/{checkpoint_name(epoch=0, step=step)}", seed=step, data=data)


def write_status(run: Path, status: str) -> None:
    (run / "run.json").write_text(json.dumps({"status": status, "mlflow_run_id": ""}))


@pytest.mark.usefixtures("ray_cluster")
def test_each_intact_checkpoint_is_scored_once_oldest_first_until_the_run_has_ended(
    save: Callable[[int], Path], shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "INTERVAL_S", 0.1)
    run = tmp_path / "run"
    write_status(run, "running")
    save(2)
    save(1)
    (save(3) / "model.safetensors").write_bytes(b"half")
    lines = watch(str(run), {"data.test": shards.validation})

    seen = [next(lines), next(lines)]
    save(4)
    seen.append(next(lines))
    write_status(run, "finished")
    seen += lines

    assert [line["checkpoint"] for line in seen] == [checkpoint_name(epoch=0, step=step) for step in (1, 2, 4)]
    assert [line["num_videos"] for line in seen] == [shards.num_validation] * 3
    assert len(np.unique([line["gap"] for line in seen])) == 3


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFolderError, match=r"expected a run's folder"):
        next(watch(str(tmp_path), {}))


def test_shards_that_are_not_there_are_refused_before_anything_is_scored(tmp_path: Path) -> None:
    write_status(tmp_path, "running")

    with pytest.raises(NoShardsError, match=r"^data.test: no file matches"):
        next(watch(str(tmp_path), {"data.test": str(tmp_path / "*.tfrecord")}))
