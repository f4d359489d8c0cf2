"""The loss of the 7th place of 2019 against its formula, clip by clip in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from yt8m_ray.losses import build_loss

RNG = np.random.default_rng(1)
NUM_CLIPS, NUM_CLASSES = 5, 7
LOGITS = RNG.normal(size=(NUM_CLIPS, NUM_CLASSES)) * 3
CLASS_IDS, RATINGS = RNG.integers(0, NUM_CLASSES, NUM_CLIPS), np.array([1.0, 0.0, 1.0, 0.0, 0.0])
MASK = RNG.integers(0, 2, (NUM_CLIPS, NUM_CLASSES)).astype(np.float64)


def published(*, negative: float = 0.5) -> float:
    rated = 0.0
    for clip in range(NUM_CLIPS):
        z, y = LOGITS[clip, CLASS_IDS[clip]], RATINGS[clip]
        cross_entropy = math.log1p(math.exp(-z)) if y else math.log1p(math.exp(z))
        rated += (1.5 if y else negative) * cross_entropy
    unrated = sum(
        MASK[clip, class_id] * math.log1p(math.exp(LOGITS[clip, class_id]))
        for clip in range(NUM_CLIPS)
        for class_id in range(NUM_CLASSES)
    )
    return rated / NUM_CLIPS + 0.5 * unrated / MASK.sum()


def rated() -> tuple[torch.Tensor, torch.Tensor]:
    labels, weights = torch.zeros(NUM_CLIPS, NUM_CLASSES), torch.zeros(NUM_CLIPS, NUM_CLASSES)
    labels[torch.arange(NUM_CLIPS), torch.from_numpy(CLASS_IDS)] = torch.from_numpy(RATINGS).float()
    weights[torch.arange(NUM_CLIPS), torch.from_numpy(CLASS_IDS)] = 1
    return labels, weights


@pytest.mark.parametrize("negative", [0.5, 1.0])
def test_the_loss_is_that_of_the_published_formula(negative: float) -> None:
    loss = build_loss({"name": "sampled", "negative_weight": negative})
    found = loss(torch.from_numpy(LOGITS), *rated(), torch.from_numpy(MASK))
    assert float(found) == pytest.approx(published(negative=negative), rel=1e-6)


def test_what_nobody_rated_and_no_mask_names_has_no_gradient() -> None:
    logits = torch.from_numpy(LOGITS).requires_grad_()
    labels, weights = rated()
    build_loss({"name": "sampled"})(logits, labels, weights, torch.from_numpy(MASK)).backward()
    assert logits.grad is not None
    assert ((logits.grad != 0).numpy() == ((weights.numpy() + MASK) > 0)).all()


def test_a_mask_of_nothing_adds_nothing() -> None:
    loss, logits = build_loss({"name": "sampled"}), torch.from_numpy(LOGITS)
    assert float(loss(logits, *rated(), torch.zeros_like(logits))) == float(loss(logits, *rated()))
