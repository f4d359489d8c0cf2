"""Our models against the NumPy forms in tests/published/, written from the published formulas before these existed.

For the models without golden outputs; those with (tests/unit/interop/test_published_weights.py) are compared once more
where the golden inputs say little: clips of different lengths with large frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.published import nextvlad, video
from tests.published.golden import ROWS, published_variable
from tests.published.layers import Array
from tests.published.small import EXAMPLES, NUM_CLASSES, NUM_FRAMES, SIZES, small_frames
from tests.unit.interop.test_published_weights import CONFIGS
from yt8m_ray.interop.parts import Part, batch_norm, dense, gru, head, linear, lstm, matrix, same
from yt8m_ray.interop.tensorflow import load_published, published_parts
from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.nextvlad import NeXtVLAD, NeXtVLADEncoder
from yt8m_ray.models.seventh_place_2019 import BatchNormSEGate

RTOL = 1e-4
LABELS = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]])
CRITERION = build_loss({"name": "cross_entropy", "published_epsilon": 1e-5})

HEAD = {"name": "moe", "num_mixtures": 2}
BLOCKS = {"cell_dim": 3, "num_layers": 2, "max_frames": 24}
NEXTVLAD = {"num_clusters": 4, "groups": 4, "hidden_dim": 8}
ALL = {"name": "all"}
CONFIG_OF: dict[str, dict[str, Any]] = {
    "lstm_pair": {"name": "lstm_pair", "cell_dim": 3},
    "gru_dbof_hybrid": {
        "name": "gru_dbof",
        "cell_dim": 4,
        "num_clusters": 6,
        "hidden_dim": 3,
        "sampling": ALL,
    },
    "teacher": {"name": "hierarchical_lstm", **BLOCKS, "num_blocks": 4},
    "student": {"name": "hierarchical_lstm", **BLOCKS, "num_blocks": 5, "every": 2},
    "nextvlad": {"name": "nextvlad", **NEXTVLAD, "gating_reduction": 2},
    "mix_nextvlad": {"name": "mix_nextvlad", **NEXTVLAD, "gating_reduction": 2},
    "nextvlad_moe": {"name": "nextvlad_2019", **NEXTVLAD, "se_reduction": 2, "sampling": ALL},
    "nextvlad_moe per class, biases, no gate": {
        "name": "nextvlad_2019",
        **NEXTVLAD,
        "se_reduction": None,
        "cluster_bn": False,
        "sampling": ALL,
        "head": {"name": "logit_moe", "num_mixtures": 2, "per_class": True},
    },
    "gated_dbof_moe": {
        "name": "gated_dbof_2019",
        "num_clusters": 8,
        "hidden_dim": 6,
        "frame_se_reduction": 4,
        "se_reduction": 2,
        "sampling": ALL,
    },
    "monn": {"name": "monn", "hidden_dims": (7, 6, 5)},
    "monn with std_all": {
        "name": "monn",
        "hidden_dims": (7, 6),
        "num_mixtures": 2,
        "statistics": ("mean", "std", "num_frames", "std_all"),
    },
    "monn with cube roots": {
        "name": "monn",
        "hidden_dims": (7,),
        "statistics": ("cube_root_moment", "std", "num_frames", "std_all"),
    },
    "cnn": {"name": "cnn", "num_channels": 3},
    "chain": {"name": "deep_combine_chain", "num_layers": 3, "relu_dim": 4, "head": HEAD},
}


def below(scope: str, parts: list[Part]) -> list[Part]:
    """Returns parts whose variables have `scope` before their names."""

    def moved(part: Part) -> Part:
        shapes = {f"{scope}/{name}": shape for name, shape in part.shapes.items()}
        return Part(
            shapes, lambda arrays: part.convert({name.removeprefix(f"{scope}/"): a for name, a in arrays.items()})
        )

    return [moved(part) for part in parts]


def stacked(scope: str, key: str, stack: nn.Module) -> list[Part]:
    return [
        lstm(f"{scope}/rnn/multi_rnn_cell/cell_{index}/basic_lstm_cell", f"{key}.layers.{index}.0", layer[0])
        for index, layer in enumerate(stack.layers)
    ]


def lstm_pair(model: Any) -> list[Part]:
    return [*stacked("even", "even", model.even), *stacked("odd", "odd", model.odd), *head("head", model.head)]


def hierarchical_lstm(model: Any) -> list[Part]:
    levels = stacked("L1", "frame_lstm", model.frame_lstm) + stacked("L2", "block_lstm", model.block_lstm)
    return levels + head("head", model.head)


def gru_dbof(model: Any) -> list[Part]:
    bag, layers = model.bag, model.gru
    ways = (("fw", "forwards", layers.forwards), ("bw", "backwards", layers.backwards))
    parts = [
        gru(f"bidirectional_rnn/{way}/multi_rnn_cell/cell_0/gru_cell", f"gru.{key}", cell) for way, key, cell in ways
    ]
    return [
        *(part for layer in parts for part in layer),
        *gru("rnn/multi_rnn_cell/cell_0/gru_cell", "gru.top", layers.top),
        *batch_norm("input_bn", "bag.input_bn", bag.input_bn),
        matrix("cluster_weights", "bag.cluster_weights", bag.cluster_weights),
        *batch_norm("cluster_bn", "bag.cluster_bn", bag.cluster_bn),
        matrix("hidden1_weights", "bag.hidden_weights", bag.hidden_weights),
        *batch_norm("hidden1_bn", "bag.hidden_bn", bag.hidden_bn),
        *head("head", model.head),
    ]


def nextvlad_layer(key: str, layer: NeXtVLAD) -> list[Part]:
    return [
        *dense("fully_connected", f"{key}.widen", layer.widen),
        *dense("fully_connected_1", f"{key}.attention", layer.attention),
        *linear("cluster_weights", f"{key}.cluster_weights", layer.cluster_weights),
        *batch_norm("cluster_bn", f"{key}.cluster_bn", layer.cluster_bn),
        same("cluster_weights2", f"{key}.centers", layer.centers, leading=1),
        *batch_norm("vlad_bn", f"{key}.bn", layer.bn),
    ]


def encoder(key: str, layer: NeXtVLADEncoder) -> list[Part]:
    parts = [
        part
        for index, feature in enumerate(("video", "audio"))
        for part in below(f"{feature}_VLAD", nextvlad_layer(f"{key}.vlads.{index}", layer.vlads[index]))
    ]
    return [
        *parts,
        matrix("hidden1_weights", f"{key}.hidden", layer.hidden),
        *batch_norm("hidden1_bn", f"{key}.hidden_bn", layer.hidden_bn),
        matrix("gating_weights_1", f"{key}.gate.squeeze", layer.gate.squeeze),
        *batch_norm("gating_bn", f"{key}.gate.bn", layer.gate.bn),
        matrix("gating_weights_2", f"{key}.gate.excite", layer.gate.excite),
    ]


def mix_nextvlad(model: Any) -> list[Part]:
    parts = dense("mixture", "mixture_weights", model.mixture_weights)
    parts += batch_norm("mixture_bn", "mixture_bn", model.mixture_bn)
    for m, (layer, classifier) in enumerate(zip(model.encoders, model.heads, strict=True)):
        parts += below(f"branch_{m}", encoder(f"encoders.{m}", layer) + head(f"heads.{m}", classifier))
    return parts


def se_gate(scope: str, key: str, gate: BatchNormSEGate | None) -> list[Part]:
    if gate is None:
        return []
    return [
        *batch_norm(f"{scope}/bn_1", f"{key}.input_bn", gate.input_bn),
        *dense(f"{scope}/squeeze", f"{key}.squeeze", gate.squeeze),
        *batch_norm(f"{scope}/bn_2", f"{key}.squeeze_bn", gate.squeeze_bn),
        *dense(f"{scope}/excite", f"{key}.excite", gate.excite),
    ]


def logit_moe(model: Any) -> list[Part]:
    return [
        *batch_norm("experts_bn", "head.expert_bn", model.head.expert_bn),
        *dense("experts", "head.experts", model.head.experts),
        *batch_norm("gates_bn", "head.gate_bn", model.head.gate_bn),
        *dense("gates", "head.gates", model.head.gates),
    ]


def nextvlad_2019(model: Any) -> list[Part]:
    """The form's descriptors are cluster-major [K, d], ours [d, K]: what reads them is turned over."""
    parts: list[Part] = []
    orders, start = [], 0
    for index, (feature, layer) in enumerate(zip(("video", "audio"), model.vlads, strict=True)):
        size, num_clusters = layer.centers.shape
        order = np.arange(size * num_clusters).reshape(num_clusters, size).T.ravel()
        *others, descriptor_bn = nextvlad_layer(f"vlads.{index}", layer)
        parts += below(f"{feature}_VLAD", [*others, reordered(descriptor_bn, order)])
        orders.append(start + order)
        start += len(order)
    hidden_weights, *hidden_biases = linear("hidden1_weights", "hidden", model.hidden)
    return [
        *parts,
        reordered(hidden_weights, np.concatenate(orders)),
        *hidden_biases,
        *se_gate("video_se", "gate", model.gate),
        *logit_moe(model),
    ]


def reordered(part: Part, order: Array) -> Part:
    return Part(part.shapes, lambda arrays: part.convert({name: array[order] for name, array in arrays.items()}))


def gated_dbof_2019(model: Any) -> list[Part]:
    return [
        *dense("fully_connected", "frame_linear", model.frame_linear),
        *se_gate("frame_se", "frame_gate", model.frame_gate),
        *batch_norm("pooled_bn", "pooled_bn", model.pooled_bn),
        matrix("hidden1_weights", "hidden", model.hidden),
        *se_gate("video_se", "gate", model.gate),
        *logit_moe(model),
    ]


def monn(model: Any) -> list[Part]:
    layers = enumerate(model.head.layers)
    parts = [part for i, layer in layers for part in dense(f"hidden_{i + 1}", f"head.layers.{i}", layer)]
    return [
        *parts,
        *dense("gates", "head.gates", model.head.gates),
        *dense("experts", "head.experts", model.head.experts),
    ]


def cnn(model: Any) -> list[Part]:
    parts = []
    for i, layer in enumerate(model.convolutions):
        weight, biases = layer.convolution.weight, layer.convolution.bias
        name, key = f"conv_{i}/weights", f"convolutions.{i}.convolution"
        parts.append(
            Part(
                {name: (weight.shape[2], weight.shape[1], weight.shape[0])},
                lambda arrays, name=name, key=key: {f"{key}.weight": arrays[name].transpose(2, 1, 0)},
            )
        )
        parts.append(same(f"conv_{i}/biases", f"{key}.bias", biases))
    return parts + head("head", model.head)


def chain(model: Any) -> list[Part]:
    parts: list[Part] = []
    for i, (support, compression) in enumerate(zip(model.supports, model.compressions, strict=True)):
        layer = head(f"supports.{i}", support) + dense("fully_connected", f"compressions.{i}", compression)
        parts += below(f"layer_{i}", layer)
    return parts + head("head", model.head)


PARTS: dict[str, Callable[[Any], list[Part]]] = {
    "lstm_pair": lstm_pair,
    "gru_dbof": gru_dbof,
    "hierarchical_lstm": hierarchical_lstm,
    "nextvlad": lambda model: encoder("encoder", model.encoder) + head("head", model.head),
    "mix_nextvlad": mix_nextvlad,
    "nextvlad_2019": nextvlad_2019,
    "gated_dbof_2019": gated_dbof_2019,
    "monn": monn,
    "cnn": cnn,
    "deep_combine_chain": chain,
}


def model_of(title: str) -> Model:
    """Returns our model with the variables of an example."""
    config, variables = CONFIG_OF[title], EXAMPLES[title].variables()
    model = build_model(config, feature_sizes=SIZES, num_classes=NUM_CLASSES).eval()
    parts = PARTS[config["name"]](model)
    assert {name: shape for part in parts for name, shape in part.shapes.items()} == EXAMPLES[title].shapes
    state = {}
    for part in parts:
        for key, array in part.convert({name: variables[name] for name in part.shapes}).items():
            state[key] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    model.load_state_dict(state)
    return model


def probabilities_of(model: Model, frames: Array, num_frames: tuple[int, ...]) -> Array:
    with torch.no_grad():
        logits = model(torch.from_numpy(frames), torch.tensor(num_frames))
    return torch.sigmoid(logits).double().numpy()


def expected_of(title: str, frames: Array) -> Array:
    if title == "cnn":  # our eval mode takes the middle of a clip; the form takes any start
        return np.concatenate([middle_of_a_clip(frames[i : i + 1, :n], n) for i, n in enumerate(NUM_FRAMES)])
    if title == "chain":
        means = np.stack([clip[:n].mean(axis=0) for clip, n in zip(frames, NUM_FRAMES, strict=True)])
        return EXAMPLES[title](means[:, None], (1, 1, 1))
    return EXAMPLES[title](frames, NUM_FRAMES)


def middle_of_a_clip(clip: Array, num_frames: int) -> Array:
    starts = [max(num_frames - length, 0) // 2 for _, _, length, _ in video.SEQUENCES]
    sequences = video.cnn_sequences(clip, [num_frames], starts)
    return video.cnn_mean_max(EXAMPLES["cnn"].variables(), sequences)


def test_every_form_has_a_model_here() -> None:
    assert CONFIG_OF.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("title", CONFIG_OF)
def test_a_model_equals_its_form(title: str) -> None:
    frames = small_frames()
    np.testing.assert_allclose(
        probabilities_of(model_of(title), frames, NUM_FRAMES), expected_of(title, frames), rtol=RTOL
    )


def test_a_mixture_learns_from_its_form_s_loss() -> None:
    frames, model = small_frames(), model_of("mix_nextvlad")
    example = EXAMPLES["mix_nextvlad"]
    logits = nextvlad.mix_nextvlad_logits(example.variables(), frames, NUM_FRAMES, **example.options)
    expected = nextvlad.mix_losses(*logits, LABELS.double().numpy())["total"]

    loss = model.loss(torch.from_numpy(frames), torch.tensor(NUM_FRAMES), LABELS, CRITERION)

    assert loss.item() == pytest.approx(float(expected), rel=RTOL)


def test_a_chain_learns_from_its_form_s_loss() -> None:
    frames, model = small_frames()[:, :1], model_of("chain")
    stages = video.chain_stages(EXAMPLES["chain"].variables(), frames[:, 0])

    loss = model.loss(torch.from_numpy(frames), torch.tensor([1, 1, 1]), LABELS, CRITERION)

    assert loss.item() == pytest.approx(video.chain_loss(stages, LABELS.double().numpy()), rel=RTOL)


def test_all_matrices_of_a_mixture_of_networks_carry_l2() -> None:
    expected = video.monn_regularization(EXAMPLES["monn"].variables())
    assert model_of("monn").regularization().item() == pytest.approx(expected, rel=1e-3)


def test_a_nextvlad_has_l2_on_weights_and_biases_of_its_classifier() -> None:
    expected = nextvlad.nextvlad_regularization(EXAMPLES["nextvlad"].variables())
    assert model_of("nextvlad").regularization().item() == pytest.approx(expected, rel=1e-3)


LONG, SHORT = 40, (40, 13, 1)


@pytest.mark.parametrize("title", [title for title, row in ROWS.items() if row.mode != "v"])
def test_a_model_with_published_names_equals_its_form_on_clips_of_any_length(title: str) -> None:
    config = {**CONFIGS[title], **({"max_frames": LONG} if title == "attention_frames_v0" else {})}
    model = build_model(config, feature_sizes=(1024, 128), num_classes=NUM_CLASSES).eval()
    shapes = {name: shape for part in published_parts(model) for name, shape in part.shapes.items()}
    variables = {name: published_variable(name, shape, 0.05) for name, shape in shapes.items()}
    load_published(model, variables)
    frames = small_frames(SHORT, 1152) * np.float32(0.5)
    exact = {name: array.astype(np.float64) for name, array in variables.items()}

    expected = ROWS[title].form(exact, frames, SHORT, **ROWS[title].options)

    np.testing.assert_allclose(probabilities_of(model, frames, SHORT), expected, rtol=RTOL)
