"""Layers and their published variables: names and shapes there, the state dict's keys and layouts here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from yt8m_ray.models.heads import Head, LogisticHead, MoEHead
from yt8m_ray.models.layers import BatchNorm
from yt8m_ray.models.recurrent import GRU, LSTMCellWeights

Arrays = Mapping[str, np.ndarray]

BATCH_NORM_PARTS = ("beta", "gamma", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Part:
    """Some published variables, and `convert`, which turns their arrays into entries of the model's state dict."""

    shapes: dict[str, tuple[int, ...]]
    convert: Callable[[Arrays], dict[str, np.ndarray]]


def same(name: str, key: str, parameter: nn.Parameter, *, leading: int = 0) -> Part:
    """A variable of the same layout, but for `leading` axes of length 1 in the published one."""
    shape = tuple(parameter.shape)
    return Part({name: (1,) * leading + shape}, lambda arrays: {key: arrays[name].reshape(shape)})


def matrix(name: str, key: str, layer: nn.Linear) -> Part:
    """The weights of a linear layer: [input, output] there, transposed here."""
    return Part({name: (layer.in_features, layer.out_features)}, lambda arrays: {f"{key}.weight": arrays[name].T})


def linear(weights: str, key: str, layer: nn.Linear, *, biases: str = "") -> list[Part]:
    """The weights and biases of a linear layer; `biases` names these where the name does not follow from `weights`."""
    parts = [matrix(weights, key, layer)]
    if layer.bias is not None:
        parts.append(same(biases or weights.replace("weights", "biases"), f"{key}.bias", layer.bias))
    return parts


def dense(scope: str, key: str, layer: nn.Linear) -> list[Part]:
    """slim.fully_connected under `scope`."""
    return linear(f"{scope}/weights", key, layer)


def batch_norm(scope: str, key: str, norm: BatchNorm | None) -> list[Part]:
    """slim.batch_norm under `scope`; empty for a layer without one."""
    if norm is None:
        return []
    shape = tuple(norm.gamma.shape)
    return [
        Part(
            {f"{scope}/{part}": shape for part in BATCH_NORM_PARTS},
            lambda arrays: {f"{key}.{part}": arrays[f"{scope}/{part}"] for part in BATCH_NORM_PARTS},
        )
    ]


def head(key: str, classifier: Head, *, logistic_scope: str = "fully_connected") -> list[Part]:
    """The classifier of a model; ValueError for a head that no published TensorFlow system has."""
    if isinstance(classifier, LogisticHead):
        # slim numbers this scope by the layers before it.
        return dense(logistic_scope, f"{key}.linear", classifier.linear)
    if not isinstance(classifier, MoEHead):
        raise ValueError(f"no published variables are known for the head {type(classifier).__name__}")
    parts = dense("experts", f"{key}.experts", classifier.experts)
    if classifier.gate_projection is None:
        parts += dense("gates", f"{key}.gates", classifier.gates)
    else:
        # A gate of low rank has two factors.
        parts += dense("gates1", f"{key}.gate_projection", classifier.gate_projection)
        parts += dense("gates2", f"{key}.gates", classifier.gates)
    if classifier.prob_gate is not None:
        parts.append(matrix("gating_prob_weights", f"{key}.prob_gate", classifier.prob_gate))
        parts += batch_norm("gating_prob_bn", f"{key}.prob_gate_bn", classifier.prob_gate_bn)
    return parts


def lstm(scope: str, key: str, cell: LSTMCellWeights) -> Part:
    """A BasicLSTMCell under `scope`."""
    rows, input_dim = cell.weight_ih.shape
    cell_dim = rows // 4

    def reorder(array: np.ndarray) -> np.ndarray:
        # TensorFlow's gates: input, candidate (j), forget, output. torch's: input, forget, candidate, output.
        i, j, f, o = np.split(array, 4, axis=-1)
        return np.concatenate([i, f, j, o], axis=-1)

    def convert(arrays: Arrays) -> dict[str, np.ndarray]:
        # TensorFlow has one kernel for inputs and state.
        kernel = reorder(arrays[f"{scope}/kernel"]).T
        return {
            f"{key}.weight_ih": kernel[:, :input_dim],
            f"{key}.weight_hh": kernel[:, input_dim:],
            f"{key}.bias": reorder(arrays[f"{scope}/bias"]),
        }

    return Part({f"{scope}/kernel": (input_dim + cell_dim, rows), f"{scope}/bias": (rows,)}, convert)


def gru(scope: str, key: str, layer: GRU) -> list[Part]:
    """A GRUCell under `scope`; ours has the same layout."""
    return [
        same(f"{scope}/{part}/{name}", f"{key}.{part}_{name}", getattr(layer, f"{part}_{name}"))
        for part in ("gates", "candidate")
        for name in ("kernel", "bias")
    ]
