from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.errors import ConfigError
from yt8m_ray.models.layers import batch_norms
from yt8m_ray.training.steps.build_loop import build_loop
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.teachers import TEACHER_FOLDER, save_teacher

CPU = torch.device("cpu")
NETVLAD = {"name": "netvlad", "num_clusters": 3, "hidden_dim": 6}


def config_of(**sections: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"name": "x"},
            "data": {"features": {"rgb": 6, "audio": 4}, "num_classes": 4},
            "model": NETVLAD,
            **{**sections, "train": {"batch_size": 8, "num_epochs": 1, **sections.get("train", {})}},
        }
    )


def batches(config: TrainConfig, first: int, last: int) -> Iterator[PackedVideos]:
    rng = np.random.default_rng(0)
    rows = [
        VideoRow(
            str(number),
            rng.integers(0, 256, (3, 10)).astype(np.uint8),
            np.array([rng.integers(4)], np.int32),
        )
        for number in range(64)
    ]
    packed = PackedVideos.from_rows(rows, config.data.spec)
    for number in range(first, last):
        yield packed.select(np.arange(8 * number, 8 * (number + 1)))


def save(loop: TrainingLoop, config: TrainConfig, folder: Path) -> Path:
    folder.mkdir()
    if loop.teacher is not None:
        save_teacher(folder / TEACHER_FOLDER, config=config, model=loop.teacher)
    save_checkpoint(folder, config=config, model=loop.model, state=loop.state(loop.progress.position), facts={})
    return folder


@pytest.mark.parametrize("case", ["in_parts", "beside_a_teacher", "from_other_weights"])
def test_a_continued_run_ends_with_the_statistics_of_one_that_was_not_stopped(case: str, tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {
        "in_parts": {"train": {"accumulation": 2}},
        "beside_a_teacher": {"teacher": {"model": NETVLAD}},
        "from_other_weights": {"train": {"init_from": str(tmp_path / "other")}},
    }
    save(build_loop(config_of(), device=CPU)[0], config_of(), tmp_path / "other")
    config = config_of(**sections[case])
    straight, _ = build_loop(config, device=CPU)
    list(straight.steps(batches(config, 0, 2)))
    checkpoint = save(straight, config, tmp_path / "checkpoint")
    list(straight.steps(batches(config, 2, 4)))

    continued, _ = build_loop(config, device=CPU, checkpoint=checkpoint)
    list(continued.steps(batches(config, 2, 4)))

    for expected, found in ((straight.model, continued.model), (straight.teacher, continued.teacher)):
        if expected is not None:
            assert found is not None
            torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_a_state_without_the_counts_of_batch_norm_goes_by_the_steps() -> None:
    config = config_of()
    loop, _ = build_loop(config, device=CPU)
    list(loop.steps(batches(config, 0, 3)))
    state = loop.state(loop.progress.position)
    continued, _ = build_loop(config, device=CPU)

    continued.load_state({name: tensor for name, tensor in state.items() if not name.startswith("batch_norm.")})

    assert {norm.num_updates for norm in batch_norms(continued.model).values()} == {3}


def test_statistics_that_start_anew_beside_other_weights_warm_up(tmp_path: Path) -> None:
    wide = config_of(model={**NETVLAD, "hidden_dim": 7})
    save(build_loop(config_of(), device=CPU)[0], config_of(), tmp_path / "other")

    loop, _ = build_loop(
        wide.model_copy(update={"train": wide.train.model_copy(update={"init_from": str(tmp_path / "other")})}),
        device=CPU,
    )

    num_updates = {name: norm.num_updates for name, norm in batch_norms(loop.model).items()}
    assert {name: num > 0 for name, num in num_updates.items()} == {
        name: tuple(norm.moving_mean.shape) != (7,) for name, norm in batch_norms(loop.model).items()
    }
    assert 0 in num_updates.values()


def test_a_frozen_teacher_that_does_not_go_with_its_student_is_a_matter_of_the_config(tmp_path: Path) -> None:
    save(build_loop(config_of(), device=CPU)[0], config_of(), tmp_path / "other")
    config = config_of(model={**NETVLAD, "hidden_dim": 7}, teacher={"checkpoint": str(tmp_path / "other")})

    with pytest.raises(ConfigError, match="the student's representation has 7 values, the teacher's 6"):
        build_loop(config, device=CPU)
