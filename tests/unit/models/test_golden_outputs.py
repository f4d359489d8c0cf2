"""Outputs of the published TensorFlow systems on given weights, which our models must repeat.

Origin: inference-mode runs of the published code in TensorFlow 1.8. Every weight is
c * RandomState(crc32(name)).randn(shape) for its variable's name, so that the whole setup is a table of names.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yt8m_ray.models import build_model

C = 0.3
NUM_CLASSES = 7

LOGISTIC = {
    "fully_connected/weights": "head.linear.weight",
    "fully_connected/biases": "head.linear.bias",
}
MOE = {
    "gates/weights": "head.gates.weight",
    "experts/weights": "head.experts.weight",
    "experts/biases": "head.experts.bias",
}


def batch_norm(variable: str, module: str) -> dict[str, str]:
    return {f"{variable}/{part}": f"{module}.{part}" for part in ("beta", "gamma", "moving_mean", "moving_variance")}


PROB_GATING = {"gating_prob_weights": "head.prob_gate.weight", **batch_norm("gating_prob_bn", "head.prob_gate_bn")}
NETVLAD = {
    **batch_norm("input_bn", "input_bn"),
    "video_VLAD/cluster_weights": "pools.0.assignment.weights.weight",
    **batch_norm("video_VLAD/cluster_bn", "pools.0.assignment.bn"),
    "video_VLAD/cluster_weights2": "pools.0.centers",
    "audio_VLAD/cluster_weights": "pools.1.assignment.weights.weight",
    **batch_norm("audio_VLAD/cluster_bn", "pools.1.assignment.bn"),
    "audio_VLAD/cluster_weights2": "pools.1.centers",
    "hidden1_weights": "hidden.linear.weight",
    "hidden1_biases": "hidden.linear.bias",
    "gating_weights_2": "gating.gate.weight",
    **batch_norm("gating_bn", "gating.gate_bn"),
}
CENTERS = ("video_VLAD/cluster_weights2", "audio_VLAD/cluster_weights2")  # [1, D, K] in TensorFlow


@dataclass(frozen=True)
class Golden:
    """One row: a config, where its variables go, and what the published system answered."""

    config: dict[str, Any]
    variables: dict[str, str]
    mode: str
    first: list[float]
    third: list[float]
    total: float
    regularization: float


GOLDEN = {
    "LogisticModel": Golden(
        {"name": "logistic"},
        LOGISTIC,
        "video",
        [0.413498, 0.584099, 0.542807, 0.316058],
        [0.464400, 0.611762],
        11.249157,
        3.487535e-06,
    ),
    "MoeModel": Golden(
        {"name": "moe", "num_mixtures": 2},
        MOE,
        "video",
        [0.381692, 0.233652, 0.287598, 0.337808],
        [0.324836, 0.404173],
        6.426927,
        1.805783e-05,
    ),
    "MoeModel with probability gating": Golden(
        {"name": "moe", "num_mixtures": 2, "prob_gating": "prob"},
        MOE | PROB_GATING,
        "video",
        [0.228748, 0.098588, 0.123928, 0.165987],
        [0.196880, 0.169711],
        3.133305,
        1.805783e-05,
    ),
    "FrameLevelLogisticModel": Golden(
        {"name": "frame_logistic"},
        LOGISTIC,
        "padded",
        [0.480358, 0.602671, 0.503044, 0.402813],
        [0.419946, 0.643123],
        10.982385,
        3.487535e-06,
    ),
    "NetVLADModelLF": Golden(
        {
            "name": "netvlad",
            "num_clusters": 8,
            "hidden_dim": 6,
            "gating": True,
            "sampling": {"name": "sequence", "num_frames": 300},
            "head": {"name": "moe", "num_mixtures": 2, "prob_gating": "prob"},
        },
        NETVLAD | MOE | PROB_GATING,
        "frames",
        [0.239117, 0.127833, 0.138359, 0.131014],
        [0.239123, 0.127714],
        3.090807,
        9.698886e-08,
    ),
}


def published_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    weight = C * np.random.RandomState(zlib.crc32(name.encode())).randn(*shape)
    last = name.rsplit("/", 1)[-1]
    if last == "moving_variance":
        weight = 0.5 + np.abs(weight)
    elif last in ("gamma", "covar_weights"):
        weight = 1 + weight
    return weight.astype(np.float32)


def load_published_weights(model: nn.Module, variables: dict[str, str]) -> None:
    """Fills every entry of the state dict; linear layers hold the transpose of TensorFlow's [input, output]."""
    state = model.state_dict()
    assert set(variables.values()) == set(state)
    linear_weights = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, target in variables.items():
        shape = tuple(state[target].shape)
        if target in linear_weights:
            weight = published_weight(name, shape[::-1]).T
        elif name in CENTERS:
            weight = published_weight(name, (1, *shape))[0]
        else:
            weight = published_weight(name, shape)
        state[target].copy_(torch.from_numpy(weight.copy()))


def published_frames(mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    frames = np.random.RandomState(0).randn(3, 300, 1152).astype(np.float32)
    frames /= np.sqrt(np.maximum((frames**2).sum(axis=-1, keepdims=True), 1e-12))
    num_frames = {"video": (1, 1, 1), "frames": (300, 300, 300), "padded": (300, 120, 7)}[mode]
    for row, count in enumerate(num_frames):
        frames[row, count:] = 0
    if mode == "video":
        frames = frames[:, :1]
    return torch.from_numpy(frames), torch.tensor(num_frames)


@pytest.fixture(scope="module", params=GOLDEN, name="answer")
def answer_of_a_published_model(request: pytest.FixtureRequest) -> tuple[Golden, np.ndarray, float]:
    golden = GOLDEN[request.param]
    model = build_model(golden.config, feature_sizes=(1024, 128), num_classes=NUM_CLASSES).eval()
    load_published_weights(model, golden.variables)
    with torch.no_grad():
        probabilities = torch.sigmoid(model(*published_frames(golden.mode))).double().numpy()
        return golden, probabilities, float(model.regularization())


def test_probabilities_equal_the_published_ones(answer: tuple[Golden, np.ndarray, float]) -> None:
    golden, probabilities, _ = answer
    np.testing.assert_allclose(probabilities[0, :4], golden.first, rtol=1e-4)
    np.testing.assert_allclose(probabilities[2, :2], golden.third, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(), golden.total, rtol=1e-5)


def test_the_l2_term_equals_the_published_one(answer: tuple[Golden, np.ndarray, float]) -> None:
    golden, _, regularization = answer
    assert regularization == pytest.approx(golden.regularization, rel=1e-3)
