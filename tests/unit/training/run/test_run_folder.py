from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from yt8m_ray.artifacts.checkpoint_folders import best_checkpoint, checkpoint_name, load_config
from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.config.document import override
from yt8m_ray.config.train import TrainConfig, with_absolute_paths
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.run.run_folder import SHARDS_KEY, RunRecord, check_resume, locked, shards_digest

Save = Callable[..., Path]


def with_gap(path: Path, gap: float | None) -> Path:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["metrics"] = {} if gap is None else {"validation/gap": gap}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture
def run(save_tiny_checkpoint: Save, tmp_path: Path) -> Path:
    """A run folder with one checkpoint; output is tmp_path, the run's name is tiny."""
    (tmp_path / "tiny").mkdir()
    save_tiny_checkpoint(f"tiny/{checkpoint_name(epoch=0, step=10)}")
    RunRecord("failed", "abc").save(tmp_path / "tiny")
    return tmp_path


def test_a_run_is_continued_from_its_last_checkpoint(run: Path) -> None:
    config = override(load_config(run / "tiny" / checkpoint_name(epoch=0, step=10)), {"output": str(run)})

    assert check_resume(config, []) == run / "tiny" / checkpoint_name(epoch=0, step=10)


def test_a_new_name_is_a_new_run(run: Path) -> None:
    config = load_config(run / "tiny" / checkpoint_name(epoch=0, step=10))

    assert check_resume(override(config, {"output": str(run), "run.name": "other"}), []) is None


def test_never_resume_refuses_a_folder_that_holds_a_run(run: Path) -> None:
    config = load_config(run / "tiny" / checkpoint_name(epoch=0, step=10))

    with pytest.raises(ConfigError, match=r"run.resume: never, but .*tiny holds a run already"):
        check_resume(override(config, {"output": str(run), "run.resume": "never"}), [])


def test_must_resume_refuses_a_folder_without_a_checkpoint(run: Path) -> None:
    config = load_config(run / "tiny" / checkpoint_name(epoch=0, step=10))

    with pytest.raises(ConfigError, match=r"run.resume: must, but .*other holds no checkpoint"):
        check_resume(override(config, {"output": str(run), "run.resume": "must", "run.name": "other"}), [])


@pytest.mark.parametrize(("key", "value"), [("model.l2", 0.5), ("data.num_classes", 31), ("data.normalize", "none")])
def test_a_continued_run_cannot_change_its_model(run: Path, key: str, value: object) -> None:
    config = load_config(run / "tiny" / checkpoint_name(epoch=0, step=10))

    with pytest.raises(ConfigError, match=rf"{key}: .* in .*, now "):
        check_resume(override(config, {"output": str(run), key: value}), [])


def test_other_changes_are_taken_and_logged(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(run / "tiny" / checkpoint_name(epoch=0, step=10))

    with caplog.at_level(logging.WARNING):
        check_resume(override(config, {"output": str(run), "optimizer.learning_rate": 0.5}), [])

    assert "optimizer.learning_rate was 0.01, now 0.5" in caplog.text


def test_the_order_of_features_is_part_of_the_model(run: Path) -> None:
    config = load_config(run / "tiny" / checkpoint_name(epoch=0, step=10))
    turned = dict(reversed(config.data.features.items()))

    with pytest.raises(
        ConfigError, match=r"data.features: \{'rgb': 8, 'audio': 4\} in .*, now \{'audio': 4, 'rgb': 8\}"
    ):
        check_resume(override(config, {"output": str(run), "data.features": turned}), [])


def test_a_position_inside_an_epoch_wants_the_same_shards(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    position = Position()
    position.add(np.array([1]), np.array([5]))
    state = {f"position.{name}": torch.from_numpy(array) for name, array in position.to_arrays().items()}
    state[SHARDS_KEY] = shards_digest(["a", "b"])
    path = save_tiny_checkpoint(f"tiny/{checkpoint_name(epoch=0, step=10)}", state=state)
    config = override(load_config(path), {"output": str(tmp_path)})

    assert check_resume(config, ["a", "b"]) == path
    with pytest.raises(ConfigError, match=r"data.train: .* is inside an epoch of other shards than the 3 given now"):
        check_resume(config, ["a", "a2", "b"])


def test_local_paths_become_absolute_and_remote_ones_stay() -> None:
    config = TrainConfig.model_validate(
        {
            "output": "runs",
            "run": {"name": "x"},
            "model": {"name": "moe"},
            "data": {
                **{"train": ["a/*.tfrecord", "s3://bucket/b*"], "validation": "v", "video_weights": "w.parquet"},
                **{"vocabulary": "names.csv", "manifest": "m.json", "cache": "cache"},
            },
            "loss": {"name": "focal", "class_weights": "counts.csv"},
            "distillation": {"labels": "soft"},
            "teacher": {"checkpoint": "teacher", "representation_weight": 0},
            "train": {"init_from": "s3://bucket/run"},
            "tracking": {"uri": "sqlite:///mlflow.db"},
        }
    )

    absolute = with_absolute_paths(config)

    here = str(Path.cwd())
    assert absolute.output == f"{here}/runs"
    assert absolute.data.train == [f"{here}/a/*.tfrecord", "s3://bucket/b*"]
    assert absolute.data.validation == f"{here}/v"
    assert absolute.data.video_weights == f"{here}/w.parquet"
    assert absolute.data.vocabulary == f"{here}/names.csv"
    assert absolute.data.manifest == f"{here}/m.json"
    assert absolute.data.cache == f"{here}/cache"
    assert absolute.teacher.checkpoint == f"{here}/teacher"
    assert absolute.train.init_from == "s3://bucket/run"
    assert absolute.loss.model_dump()["class_weights"] == f"{here}/counts.csv"
    assert absolute.distillation.labels == f"{here}/soft"
    assert absolute.tracking.uri == f"sqlite:///{here}/mlflow.db"


def test_the_best_checkpoint_has_the_highest_gap(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    for step, gap in ((1, 0.4), (2, 0.6), (3, 0.5)):
        with_gap(save_tiny_checkpoint(checkpoint_name(epoch=0, step=step)), gap)

    path, metrics = best_checkpoint(tmp_path)

    assert (path.name, metrics["validation/gap"]) == (checkpoint_name(epoch=0, step=2), 0.6)


def test_without_validation_the_last_checkpoint_is_the_best(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    for step in (1, 2):
        with_gap(save_tiny_checkpoint(checkpoint_name(epoch=0, step=step)), None)

    assert best_checkpoint(tmp_path)[0].name == checkpoint_name(epoch=0, step=2)


def test_a_broken_checkpoint_is_never_the_best(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    with_gap(save_tiny_checkpoint(checkpoint_name(epoch=0, step=1)), 0.1)
    (with_gap(save_tiny_checkpoint(checkpoint_name(epoch=0, step=2)), 0.9) / "config.yaml").write_text("changed")

    assert best_checkpoint(tmp_path)[0].name == checkpoint_name(epoch=0, step=1)


def test_a_run_without_checkpoints_has_no_best(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        best_checkpoint(tmp_path)


def test_two_commands_are_not_at_work_on_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"

    with locked(folder), pytest.raises(ConfigError, match=r"run.name: another command is at work on .*/tiny"):
        locked(folder).__enter__()

    with locked(folder):
        (folder / "run.json").touch()
    assert folder.exists()


def test_a_run_that_leaves_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "output" / "tiny"):
        raise KeyError

    assert list(tmp_path.iterdir()) == []


def test_an_error_under_a_lock_whose_folder_is_gone_is_still_that_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "output" / "tiny"):
        shutil.rmtree(tmp_path / "output")
        raise KeyError


@pytest.mark.parametrize(
    "content", ['{"status": "running"}', '{"status": "running", "mlflow_run_id": "a", "x": 1}', "[" * 9999]
)
def test_a_record_of_something_else_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)

    with pytest.raises(ValueError, match=r"run\.json: not (the record of a run|a JSON document)"):
        RunRecord.load(tmp_path)
