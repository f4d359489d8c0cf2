from __future__ import annotations

from typing import Any

import pytest

from yt8m_ray.config.document import override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.steps.model_checks import check_models

STUDENT = {"name": "netvlad", "num_clusters": 4, "hidden_dim": 8, "sampling": {"name": "uniform", "every": 10}}


def config_of(**sections: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {"run": {"name": "x"}, "data": {"features": {"rgb": 6}, "num_classes": 3}, "model": STUDENT, **sections}
    )


def test_a_student_and_a_teacher_of_one_size_go_together() -> None:
    config = config_of(teacher={"model": {"name": "netvlad", "num_clusters": 9, "hidden_dim": 8}})

    assert config.teacher.is_on


def test_representations_of_different_sizes_are_refused() -> None:
    model = {"name": "netvlad", "num_clusters": 4, "hidden_dim": 12}

    with pytest.raises(ValueError, match="the student's representation has 8 values, the teacher's 12; make them"):
        check_models(config_of(teacher={"model": model}))

    check_models(config_of(teacher={"model": model, "representation_weight": 0}))


def test_a_model_with_a_loss_of_its_own_does_not_teach() -> None:
    with pytest.raises(ValueError, match="teacher: a model with a loss of its own neither teaches nor learns"):
        check_models(config_of(teacher={"model": {"name": "deep_combine_chain"}}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"teacher.model.name": "moe", "teacher.checkpoint": "x"}, "beside the student .model. or before it"),
        ({"distillation.labels": "a", "distillation.teacher": "b"}, "labels have a teacher already; remove one"),
        ({"distillation.weight": 1.5}, "distillation.weight: "),
        ({"teacher.label_weight": 0.5}, "label_weight: there is no teacher without model or checkpoint"),
    ],
)
def test_teachers_that_contradict_each_other_or_are_not_there_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(config_of(), keys)
