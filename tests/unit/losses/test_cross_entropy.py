"""The focal loss and label smoothing against the formulas, element by element in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.losses import build_loss

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(6, 9)) * 4, RNG.integers(0, 2, (6, 9)).astype(np.float64)


def value(config: dict[str, Any], logits: np.ndarray = LOGITS, labels: np.ndarray = LABELS) -> float:
    return float(build_loss(config)(torch.from_numpy(logits), torch.from_numpy(labels)))


def focal(logits: np.ndarray, labels: np.ndarray, *, gamma: float, alpha: float | None) -> float:
    total = 0.0
    for logit, label in zip(logits.ravel(), labels.ravel(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_t = p if label == 1 else 1 - p
        alpha_t = 1.0 if alpha is None else alpha if label == 1 else 1 - alpha
        total -= alpha_t * (1 - p_t) ** gamma * math.log(p_t)
    return total / len(logits)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (2.0, None), (0.5, 0.75), (5.0, None)])
def test_the_focal_loss_is_that_of_the_paper(gamma: float, alpha: float | None) -> None:
    expected = focal(LOGITS, LABELS, gamma=gamma, alpha=alpha)
    assert value({"name": "focal", "gamma": gamma, "alpha": alpha}) == pytest.approx(expected, rel=1e-5)


def test_a_right_element_of_p_0_9_costs_a_hundredth_in_the_focal_loss() -> None:
    # The paper's own example: gamma 2, p_t = 0.9.
    logits, labels = np.array([[math.log(9)]]), np.array([[1.0]])
    both = [value({"name": name}, logits, labels) for name in ("focal", "cross_entropy")]
    assert both[0] == pytest.approx(both[1] / 100, rel=1e-5)


def test_a_focal_loss_of_gamma_0_is_the_cross_entropy_for_soft_labels_too() -> None:
    soft = RNG.random((6, 9))
    assert value({"name": "focal", "gamma": 0}, labels=soft) == pytest.approx(
        value({"name": "cross_entropy"}, labels=soft), rel=1e-6
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("logit", [math.inf, 1e30, 80.0])
def test_the_focal_loss_is_finite_with_finite_gradients_at_extreme_logits(gamma: float, logit: float) -> None:
    logits = torch.tensor([[logit, -logit, logit, -logit]], requires_grad=True)
    loss = build_loss({"name": "focal", "gamma": gamma})(logits, torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_smoothing_moves_labels_towards_one_half(name: str) -> None:
    moved = np.where(LABELS == 1, 0.95, 0.05)
    assert value({"name": name, "label_smoothing": 0.1}) == pytest.approx(value({"name": name}, labels=moved), rel=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("columns", ["Index,TrainVideoCount", "class_id,num_videos"])
def test_classes_weigh_in_a_loss_by_their_counts(tmp_path: Path, name: str, columns: str) -> None:
    (tmp_path / "counts.csv").write_text(f"{columns}\n0,30\n1,10\n2,20\n")
    loss = build_loss({"name": name, "class_weights": str(tmp_path / "counts.csv")})
    logits, labels = torch.from_numpy(LOGITS[:, :3]), torch.from_numpy(LABELS[:, :3])
    videos = torch.rand(6, 1)
    # 60 occurrences of 3 classes: each class has 20 of the weight.
    by_class = torch.tensor([[20 / 30, 20 / 10, 20 / 20]])
    expected = build_loss({"name": name})(logits, labels, videos * by_class)
    assert float(loss(logits, labels, videos)) == pytest.approx(float(expected), rel=1e-6)


def test_counts_of_other_classes_are_refused_by_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("class_id,name,num_videos\n0,,3\n1,,4\n")
    loss = build_loss({"name": "focal", "class_weights": str(path)})
    message = rf"loss.class_weights: {path} counts 2 classes, expected 9"
    with pytest.raises(ValueError, match=message):
        loss.check_num_classes(9)
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(1, 9), torch.zeros(1, 9))
