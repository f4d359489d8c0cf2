"""The losses against published values and against the sum over videos and classes in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.losses import build_loss
from yt8m_ray.models import build_model

PUBLISHED = {"name": "cross_entropy", "published_epsilon": 1e-5}
EXACT = {"name": "cross_entropy"}
ALL = [PUBLISHED, EXACT, {"name": "focal"}, {"name": "sampled"}, {"name": "hinge"}, {"name": "softmax"}]
NAMES = ["published", "exact", "focal", "sampled", "hinge", "softmax"]

LOGITS = torch.logit(torch.tensor([[0.9, 0.2, 0.0], [0.5, 1.0, 0.3]]))
LABELS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
TEACHER = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.9, 0.6]])


@pytest.mark.parametrize(
    ("config", "expected"), [(PUBLISHED, 1.1127635), ({"name": "hinge"}, 2.25), ({"name": "softmax"}, 0.86846656)]
)
def test_the_published_example_has_the_published_loss(config: dict[str, Any], expected: float) -> None:
    assert float(build_loss(config)(LOGITS, LABELS)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.1127635), (0.5, 1.7481956), (1.0, 2.383628)])
def test_labels_mixed_with_a_teacher_s_have_the_published_mixed_loss(share: float, expected: float) -> None:
    # The published one mixes two cross-entropies, which are linear in the labels.
    mixed = share * TEACHER + (1 - share) * LABELS
    assert float(build_loss(PUBLISHED)(LOGITS, mixed)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("config", "num_classes", "loss", "expected"),
    [
        # What the published figures of these three leave out is epsilon.
        ({"name": "logistic"}, 3862, EXACT, 2676.934),
        ({"name": "logistic"}, 4716, EXACT, 3268.882),
        ({"name": "moe", "num_mixtures": 2, "prob_gating": "input"}, 3862, EXACT, 704.126),
        ({"name": "moe", "num_mixtures": 1}, 3862, PUBLISHED, 1110.977),
        ({"name": "moe", "num_mixtures": 2}, 3862, PUBLISHED, 1565.848),
        ({"name": "moe", "num_mixtures": 4}, 3862, PUBLISHED, 1972.744),
    ],
    ids=["logistic", "logistic 2017", "gated moe", "moe of 1", "moe of 2", "moe of 4"],
)
def test_an_untrained_model_starts_at_the_published_loss(
    config: dict[str, Any], num_classes: int, loss: dict[str, Any], expected: float
) -> None:
    model = build_model(config, feature_sizes=(2,), num_classes=num_classes).eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, 1, 2), torch.tensor([1]))
    assert float(build_loss(loss)(logits, torch.zeros_like(logits))) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_the_loss_is_the_mean_over_videos_of_the_sum_over_classes(epsilon: float) -> None:
    random = np.random.RandomState(0)
    logits, labels = random.randn(6, 9) * 5, random.rand(6, 9).round(1)
    p = 1 / (1 + np.exp(-logits))
    terms = -(labels * np.log(p + epsilon) + (1 - labels) * np.log(1 - p + epsilon))
    loss = build_loss({"name": "cross_entropy", "published_epsilon": epsilon})
    assert float(loss(torch.from_numpy(logits), torch.from_numpy(labels))) == pytest.approx(terms.sum() / 6, rel=1e-5)


@pytest.mark.parametrize("config", [PUBLISHED, EXACT], ids=["published", "exact"])
@pytest.mark.parametrize("logit", [math.inf, 1e30, 1e4, 80.0])
def test_extreme_logits_have_finite_gradients_and_a_right_certainty_costs_nothing(
    config: dict[str, Any], logit: float
) -> None:
    logits = torch.tensor([[logit, -logit]], requires_grad=True)
    right = build_loss(config)(logits, torch.tensor([[1.0, 0.0]]))
    wrong = build_loss(config)(logits, torch.tensor([[0.0, 1.0]]))
    assert float(right.detach()) == pytest.approx(0, abs=1e-4)
    assert 20 < float(wrong.detach()) < math.inf
    (right + wrong).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("config", ALL, ids=NAMES)
def test_an_empty_batch_costs_zero_and_has_a_gradient(config: dict[str, Any]) -> None:
    weight = torch.ones(3, requires_grad=True)
    loss = build_loss(config)(torch.zeros(0, 3) * weight, torch.zeros(0, 3))
    assert float(loss.detach()) == 0
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["hinge", "softmax"])
def test_losses_of_probabilities_stay_finite(name: str) -> None:
    logits = torch.tensor([[math.inf, -math.inf, 1e30], [0.0, -80.0, 80.0]], requires_grad=True)
    loss = build_loss({"name": name})(logits, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("config", ALL, ids=NAMES)
def test_a_loss_is_the_weighted_sum_of_the_losses_of_single_elements_over_the_number_of_clips(
    config: dict[str, Any],
) -> None:
    loss, weights = build_loss(config), torch.tensor([[0.0, 2.0, 0.5], [1.0, 0.25, 3.0]])
    terms = torch.zeros(2, 3)
    for clip in range(2):
        for class_id in range(3):
            alone = torch.zeros(2, 3)
            alone[clip, class_id] = 1
            terms[clip, class_id] = 2 * loss(LOGITS, LABELS, alone)
    assert float(loss(LOGITS, LABELS, weights)) == pytest.approx(float((terms * weights).sum()) / 2, rel=1e-5)
    assert float(loss(LOGITS, LABELS)) == pytest.approx(float(terms.sum()) / 2, rel=1e-5)


@pytest.mark.parametrize("config", ALL, ids=NAMES)
def test_the_weight_of_a_video_is_that_of_all_its_elements(config: dict[str, Any]) -> None:
    loss, weights = build_loss(config), torch.tensor([[0.5], [1.5]])
    by_video = [float(loss(LOGITS[row : row + 1], LABELS[row : row + 1])) for row in range(2)]
    expected = (0.5 * by_video[0] + 1.5 * by_video[1]) / 2
    assert float(loss(LOGITS, LABELS, weights)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("config", ALL, ids=NAMES)
def test_weights_of_one_change_nothing(config: dict[str, Any]) -> None:
    loss = build_loss(config)
    assert float(loss(LOGITS, LABELS, torch.ones(2, 1))) == pytest.approx(float(loss(LOGITS, LABELS)), rel=1e-6)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(1, 3862, dtype=torch.bfloat16)
    assert float(build_loss(EXACT)(logits, torch.zeros(1, 3862))) == pytest.approx(3862 * math.log(2), rel=1e-6)


def test_a_negative_epsilon_is_refused() -> None:
    with pytest.raises(ValueError, match="published_epsilon"):
        build_loss({"name": "cross_entropy", "published_epsilon": -1e-5})
