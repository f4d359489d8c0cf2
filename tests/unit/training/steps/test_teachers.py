from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.artifacts.checkpoint import load_model
from yt8m_ray.artifacts.folder_manifest import CheckpointError, read_manifest
from yt8m_ray.config.document import override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.labels.video_weights import save_weights
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.steps.build_loop import build_loop
from yt8m_ray.training.steps.teachers import TeacherOutputs, build_teacher, check_paths, save_teacher

Save = Callable[..., Path]
CPU = torch.device("cpu")


def config_of(**sections: Any) -> TrainConfig:
    data = {"features": {"rgb": 8, "audio": 4}, "num_classes": 30, "max_frames": 6, **sections.pop("data", {})}
    return TrainConfig.model_validate({"run": {"name": "x"}, "data": data, "model": {"name": "moe"}, **sections})


def videos(config: TrainConfig) -> PackedVideos:
    rng = np.random.default_rng(0)
    rows = [
        VideoRow(str(number), rng.integers(0, 256, (number + 1, 12)).astype(np.uint8), np.array([number], np.int32))
        for number in range(4)
    ]
    return PackedVideos.from_rows(rows, config.data.spec)


def test_a_frozen_teacher_gives_the_scores_of_its_checkpoint(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()
    config = config_of(distillation={"teacher": str(path)})
    batch = to_batch(videos(config), spec=config.data.spec)

    _, targets = TeacherOutputs.load(config, [], CPU).prepare(videos(config), config, CPU, total=4)

    with torch.no_grad():
        expected = torch.sigmoid(load_model(path)[0](batch.frames, batch.num_frames))
    assert targets.soft_labels is not None
    torch.testing.assert_close(targets.soft_labels, expected)


def test_a_teacher_gets_its_frames_as_it_was_trained_with_them(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint(data={"normalize": "none"})
    config = config_of(teacher={"checkpoint": str(path), "representation_weight": 0})
    batch = to_batch(videos(config), spec=config.data.spec, normalize="none")

    _, targets = TeacherOutputs.load(config, [], CPU).prepare(videos(config), config, CPU, total=4)

    with torch.no_grad():
        expected = load_model(path)[0](batch.frames, batch.num_frames)
    assert targets.logits is not None
    torch.testing.assert_close(targets.logits, expected)


def test_a_teacher_with_another_normalization_does_not_go_with_augmented_frames(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint(data={"normalize": "none"})
    config = config_of(distillation={"teacher": str(path)}, augmentation={"frame_dropout": 0.5})

    with pytest.raises(ConfigError, match=r"a teacher sees the same frames as its student, but distillation\.teacher"):
        TeacherOutputs.load(config, [], CPU)


@pytest.mark.parametrize("key", ["distillation.teacher", "teacher.checkpoint"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"num_classes": 29}, "knows 30 classes, data.num_classes is 29"),
        (
            {"features": {"audio": 4, "rgb": 8}},
            "reads {'rgb': 8, 'audio': 4}, data.features are {'audio'",
        ),
    ],
)
def test_a_teacher_of_other_classes_or_features_is_refused(
    save_tiny_checkpoint: Save, key: str, data: dict[str, Any], message: str
) -> None:
    section, _, name = key.partition(".")
    config = config_of(**{section: {name: str(save_tiny_checkpoint())}}, data=data)

    with pytest.raises(ConfigError, match=f"{key}: {message}"):
        check_paths(config, [])


@pytest.mark.parametrize(
    "key",
    [
        "distillation.teacher",
        "distillation.labels",
        "teacher.checkpoint",
        "train.init_from",
        "data.video_weights",
    ],
)
def test_a_path_that_leads_nowhere_is_refused_before_anything_starts(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        check_paths(override(config_of(), {key: str(tmp_path / "nowhere")}), [])


@pytest.mark.parametrize("key", ["distillation.teacher", "teacher.checkpoint"])
def test_a_damaged_teacher_is_refused_before_anything_starts(save_tiny_checkpoint: Save, key: str) -> None:
    path = save_tiny_checkpoint()
    (path / "model.safetensors").write_bytes(b"cut short")

    with pytest.raises(CheckpointError, match=r"model\.safetensors: \d+ bytes expected, 9 found"):
        check_paths(override(config_of(), {key: str(path)}), [])


def test_a_student_with_another_representation_than_its_checkpoint_is_refused(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint(model={"name": "netvlad", "num_clusters": 3, "hidden_dim": 5})

    with pytest.raises(ValueError, match="representation has 12 values, the teacher's 5"):
        build_loop(config_of(teacher={"checkpoint": str(path)}), device=CPU)


def test_a_teacher_trained_beside_its_student_is_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    config = config_of(teacher={"model": {"name": "logistic"}}, ema={"decay": 0.9})
    teacher = build_teacher(config)
    assert teacher is not None

    save_teacher(tmp_path / "teacher", config=config, model=teacher)

    read_manifest(tmp_path / "teacher", kind="checkpoint")
    model, of_teacher = load_model(tmp_path / "teacher")
    assert of_teacher.model.name == "logistic"
    assert not of_teacher.teacher.is_on
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_student_comes_nearer_to_a_frozen_teacher(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint(model={"name": "moe"})
    config = config_of(
        teacher={"checkpoint": str(path), "representation_weight": 0, "label_weight": 0},
        optimizer={"learning_rate": 0.1},
        train={"num_epochs": 30, "batch_size": 4},
    )
    loop, _ = build_loop(config, device=CPU)
    losses = []
    for epoch in range(30):
        loop.progress.position.start_epoch(epoch)
        list(loop.steps(iter([videos(config)])))
        losses.append(loop.interval()["train/loss"])

    assert losses[-1] < 0.3 * losses[0]


def test_a_run_starts_from_the_weights_of_another(save_tiny_checkpoint: Save, caplog: pytest.LogCaptureFixture) -> None:
    path = save_tiny_checkpoint(model={"name": "moe"})

    with caplog.at_level("INFO"):
        loop, position = build_loop(config_of(train={"init_from": str(path)}), device=CPU)

    assert position.num_done == 0
    assert f"starting from the weights of {path}" in caplog.text
    for name, tensor in load_model(path)[0].state_dict().items():
        assert torch.equal(loop.model.state_dict()[name], tensor)


def test_the_weights_of_videos_go_with_their_batch(tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.parquet", ["3", "0", "1", "2"], np.array([4.0, 1.0, 0.5, 2.0], np.float32))
    config = config_of(data={"video_weights": str(tmp_path / "weights.parquet")})

    _, targets = TeacherOutputs.load(config, [], CPU).prepare(videos(config), config, CPU, total=4)

    assert targets.weights is not None
    assert targets.weights.tolist() == [1.0, 0.5, 2.0, 4.0]
