"""The recurrent models without golden outputs, against their published forms in NumPy (tests/published)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.published.layers import Array
from tests.published.recurrent import layers
from tests.published.small import EXAMPLES, NUM_CLASSES, NUM_FRAMES, SIZES, small_frames
from yt8m_ray.models import Model, build_model

CONFIGS: dict[str, dict[str, Any]] = {
    "lstm_pair": {"name": "lstm_pair", "cell_dim": 3},
    "gru_dbof_hybrid": {"name": "gru_dbof", "cell_dim": 4, "num_clusters": 6, "hidden_dim": 3},
    "teacher": {"name": "hierarchical_lstm", "cell_dim": 3, "num_blocks": 4, "max_frames": 24},
    "student": {"name": "hierarchical_lstm", "cell_dim": 3, "num_blocks": 5, "every": 2, "max_frames": 24},
}
LSTMS = {
    "lstm_pair": {"even": "even/rnn", "odd": "odd/rnn"},
    "teacher": {"frame_lstm": "L1/rnn", "block_lstm": "L2/rnn"},
    "student": {"frame_lstm": "L1/rnn", "block_lstm": "L2/rnn"},
    "gru_dbof_hybrid": {},
}
GRUS = {"forwards": "bidirectional_rnn/fw", "backwards": "bidirectional_rnn/bw", "top": "rnn"}


def lstm_state(prefix: str, cells: list[dict[str, Array]], input_dim: int) -> dict[str, Array]:
    """TensorFlow's gates i, j, f, o in torch's order, and the kernel's transpose in its two parts."""
    state = {}
    for index, cell in enumerate(cells):
        kernel, bias = (
            np.concatenate([i, f, j, o], axis=-1)
            for i, j, f, o in (np.split(cell[f"basic_lstm_cell/{part}"], 4, axis=-1) for part in ("kernel", "bias"))
        )
        state[f"{prefix}.layers.{index}.0.weight_ih"] = kernel[:input_dim].T
        state[f"{prefix}.layers.{index}.0.weight_hh"] = kernel[input_dim:].T
        state[f"{prefix}.layers.{index}.0.bias"] = bias
        input_dim = len(kernel) - input_dim
    return state


def gru_dbof_state(variables: dict[str, Array]) -> dict[str, Array]:
    state = {}
    for key, scope in GRUS.items():
        (cell,) = layers(variables, scope)
        for name in ("gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias"):
            state[f"gru.{key}.{name.replace('/', '_')}"] = cell[f"gru_cell/{name}"]
    for key, scope in {"input_bn": "input_bn", "cluster_bn": "cluster_bn", "hidden_bn": "hidden1_bn"}.items():
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            state[f"bag.{key}.{part}"] = variables[f"{scope}/{part}"]
    state["bag.cluster_weights.weight"] = variables["cluster_weights"].T
    state["bag.hidden_weights.weight"] = variables["hidden1_weights"].T
    return state


def published_model(name: str) -> Model:
    variables = EXAMPLES[name].variables()
    state = gru_dbof_state(variables) if name == "gru_dbof_hybrid" else {}
    model = build_model(CONFIGS[name], feature_sizes=SIZES, num_classes=NUM_CLASSES).eval()
    for key, scope in LSTMS[name].items():
        state |= lstm_state(key, layers(variables, scope), getattr(model, key).layers[0][0].weight_ih.shape[1])
    for part, parameter in {"gates/weights": "gates.weight", "experts/weights": "experts.weight"}.items():
        state[f"head.{parameter}"] = variables[part].T
    state["head.experts.bias"] = variables["experts/biases"]
    model.load_state_dict({key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in state.items()})
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_equals_its_published_form(name: str) -> None:
    frames = small_frames()
    with torch.no_grad():
        probabilities = torch.sigmoid(published_model(name)(torch.from_numpy(frames), torch.tensor(NUM_FRAMES)))
    np.testing.assert_allclose(probabilities, EXAMPLES[name](frames, NUM_FRAMES), rtol=1e-4)


def test_a_clip_longer_than_a_hierarchical_lstm_expects_has_more_blocks() -> None:
    model = build_model(
        {"name": "hierarchical_lstm", "cell_dim": 3, "max_frames": 4, "num_blocks": 2},
        feature_sizes=(2,),
        num_classes=2,
    )
    frames = torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        nine, eight = (model.represent(frames, torch.tensor([length])) for length in (9, 8))
    assert not torch.allclose(nine, eight)


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_every_last_frame_that_is_read_counts(every: int) -> None:
    model = build_model(
        {"name": "hierarchical_lstm", "cell_dim": 3, "max_frames": 20, "num_blocks": 3, "every": every},
        feature_sizes=(2,),
        num_classes=2,
    )
    frames = torch.randn(1, 19, 2, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    frames[1, (18 // every) * every] += 1
    first, second = model.represent(frames, torch.tensor([19, 19]))
    assert not torch.allclose(first, second)


def test_shuffling_is_for_training_alone() -> None:
    torch.manual_seed(0)
    config = {"name": "bidirectional_lstm", "cell_dim": 4, "frame_shuffle": True}
    model = build_model(config, feature_sizes=(3,), num_classes=2)
    frames, num_frames = torch.randn(1, 12, 3), torch.tensor([12])
    assert torch.equal(model.eval()(frames, num_frames), model(frames, num_frames))
    assert not torch.equal(model.train()(frames, num_frames), model(frames, num_frames))
