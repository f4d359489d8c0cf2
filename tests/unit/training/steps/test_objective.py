from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yt8m_ray.config.distillation import DistillationConfig, TeacherConfig
from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model, build_model
from yt8m_ray.training.steps.objective import Objective, TeacherTargets, mean_divergence, mean_squared_distance

PUBLISHED_SCORES = [[0.9, 0.2, 0.0], [0.5, 1.0, 0.3]]
PUBLISHED_LABELS = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
PUBLISHED_TEACHER = [[0.8, 0.1, 0.1], [0.2, 0.9, 0.6]]
NUM_FRAMES = torch.ones(2, dtype=torch.int64)


class Identity(Model):
    """A model whose logits are its one frame."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(feature_sizes=(num_classes,), num_classes=num_classes)
        self.head = nn.Identity()  # type: ignore[assignment]

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return frames[:, 0]


def objective_of(model: Model, *, epsilon: float = 0.0, **options: Any) -> Objective:
    loss = build_loss({"name": "cross_entropy", "published_epsilon": epsilon})
    return Objective(model, loss, **options)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 1.1127635), (0.5, 1.7481956), (1.0, 2.383628)])
def test_the_mixture_with_a_teacher_is_the_published_one(weight: float, expected: float) -> None:
    objective = objective_of(Identity(3), epsilon=1e-5, distillation=DistillationConfig(labels="x", weight=weight))
    logits = torch.logit(torch.tensor(PUBLISHED_SCORES)).clamp(-80, 80).unsqueeze(1)

    loss, _ = objective(
        logits, NUM_FRAMES, torch.tensor(PUBLISHED_LABELS), TeacherTargets(soft_labels=torch.tensor(PUBLISHED_TEACHER))
    )

    assert float(loss) == pytest.approx(expected, rel=2e-6)


def test_a_temperature_softens_both_sides_and_keeps_the_size_of_gradients() -> None:
    config = DistillationConfig(labels="x", weight=1.0, temperature=2.0)
    logits = np.array([[1.0, -3.0], [0.5, 2.0]])
    teacher = np.array([[0.9, 0.0], [0.3, 1.0]])
    with np.errstate(divide="ignore"):
        soft = 1 / (1 + np.sqrt((1 - teacher) / teacher))  # the odds to the power 1/2
    scores = 1 / (1 + np.exp(-logits / 2))
    expected = -4 * (soft * np.log(scores) + (1 - soft) * np.log(1 - scores)).sum() / 2

    loss, _ = objective_of(Identity(2), distillation=config)(
        torch.tensor(logits).float().unsqueeze(1),
        NUM_FRAMES,
        torch.zeros(2, 2),
        TeacherTargets(torch.tensor(teacher).float()),
    )

    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_divergence_is_that_of_scores_divided_by_their_sum() -> None:
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 5))
    total = 0.0
    for of_student, of_teacher in zip(1 / (1 + np.exp(-student)), 1 / (1 + np.exp(-teacher)), strict=True):
        p, q = of_teacher / of_teacher.sum(), of_student / of_student.sum()
        total += float((p * np.log(p / q)).sum())

    assert float(mean_divergence(torch.tensor(student), torch.tensor(teacher))) == pytest.approx(total / 3, rel=1e-5)


def test_a_batch_without_clips_teaches_nothing() -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)

    assert float(mean_divergence(nothing, nothing) + mean_squared_distance(nothing, nothing)) == 0.0


def small_model(seed: int) -> Model:
    torch.manual_seed(seed)
    return build_model({"name": "logistic", "l2": 0.5}, feature_sizes=(4,), num_classes=3)


def lesson_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    return torch.randn(2, 1, 4), NUM_FRAMES, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])


def test_the_student_learns_from_representation_prediction_and_labels() -> None:
    student, teacher = small_model(0), small_model(1)
    config = TeacherConfig(checkpoint="x", representation_weight=0.5, prediction_weight=3.0, label_weight=2.0)
    objective = objective_of(student, teaching=config)
    frames, num_frames, labels = lesson_inputs()
    representation = torch.randn(2, 4)
    logits = teacher(frames, num_frames).detach()

    loss, own = objective(frames, num_frames, labels, TeacherTargets(representation=representation, logits=logits))

    expected = 0.5 * float((frames[:, 0] - representation).square().sum()) / 2
    expected += 3.0 * float(mean_divergence(student(frames, num_frames), logits))
    expected += 2.0 * float(objective.criterion(student(frames, num_frames), labels))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(own, student(frames, num_frames).detach())


def test_published_sums_count_as_the_papers_authors_do() -> None:
    frames, num_frames, labels = lesson_inputs()
    representation, logits = torch.randn(2, 4), small_model(1)(frames, num_frames).detach()
    student = small_model(0)
    objective = objective_of(student, teaching=TeacherConfig(checkpoint="x", published_sums=True))

    loss, _ = objective(frames, num_frames, labels, TeacherTargets(None, None, representation, logits, num_videos=2))

    expected = 2 * float((frames[:, 0] - representation).square().sum()) / 2
    expected += 2 * float(mean_divergence(student(frames, num_frames), logits))  # the sum over both videos
    expected += float(objective.criterion(student(frames, num_frames), labels))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(objective.regularization()) == pytest.approx(2 * float(student.regularization()))


def test_a_teacher_beside_its_student_learns_from_labels_alone() -> None:
    frames, num_frames, labels = lesson_inputs()
    student, teacher, alone = small_model(0), small_model(1), small_model(1)
    objective = objective_of(
        student, teaching=TeacherConfig.model_validate({"model": {"name": "logistic"}}), teacher=teacher
    )

    objective(frames, num_frames, labels)[0].backward()
    objective.criterion(alone(frames, num_frames), labels).backward()

    for found, expected in zip(teacher.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_the_weights_of_videos_scale_both_terms() -> None:
    frames, num_frames, labels = lesson_inputs()
    objective = objective_of(small_model(0), distillation=DistillationConfig(labels="x"))
    soft_labels = torch.rand(2, 3)
    rows = [slice(0, 1), slice(1, 2)]
    alone = [
        float(objective(frames[row], num_frames[row], labels[row], TeacherTargets(soft_labels[row]))[0]) for row in rows
    ]

    loss, _ = objective(frames, num_frames, labels, TeacherTargets(soft_labels, torch.tensor([0.25, 2.0])))

    assert float(loss) == pytest.approx((0.25 * alone[0] + 2.0 * alone[1]) / 2, rel=1e-5)
