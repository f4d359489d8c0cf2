"""Weights of the published TensorFlow systems -> our models (google/youtube-8m and the 2018 winner's fork of it)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from yt8m_ray.interop.parts import Part, batch_norm, dense, gru, head, linear, lstm, matrix, same
from yt8m_ray.interop.variables import check_arrays, match_variables
from yt8m_ray.models import Model
from yt8m_ray.models.dbof import DBoFModel
from yt8m_ray.models.frame_attention import FrameAttention, FrameAttentionModel
from yt8m_ray.models.gru import BidirectionalGRU, BidirectionalGRUModel, BranchedGRUModel, GRUBranch
from yt8m_ray.models.late_fusion import Assignment, LateFusionModel
from yt8m_ray.models.layers import ContextGating
from yt8m_ray.models.lstm import BidirectionalLSTMModel, LSTMModel
from yt8m_ray.models.mean_frame import LogisticModel, MoEModel
from yt8m_ray.models.netfv import NetFV
from yt8m_ray.models.netvlad import NetVLAD
from yt8m_ray.models.recurrent import LSTM, LSTMCellWeights
from yt8m_ray.models.soft_dbof import GatedDBoF, SoftDBoF

# Prefixes of the layers of the first and the second feature; the published systems have two.
FEATURE_SCOPES = ("video", "audio")


def load_published(model: Model, variables: Mapping[str, Any], *, ema: bool = False) -> None:
    """Copies the variables of a published TensorFlow system into `model`.

    Args:
        model: A model that `build_model` or `build_empty_model` made with the options of the published one.
        variables: Arrays or tensors by variable name. Leading scopes (`tower/`) and the suffix `:0` do not matter;
            optimizer slots and counters are ignored.
        ema: Take a variable's `ExponentialMovingAverage` where there is one.

    Raises:
        ValueError: variables are missing, unexpected or of another shape (all of them are listed, and the model is left
            as it was), there are no moving averages to take, or no published system has this model.
    """
    parts = published_parts(model)
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
    found, faults = match_variables(variables, shapes, ema=ema)
    arrays = {name: _to_array(variables[source]) for name, source in found.items()}
    faults += check_arrays(arrays, shapes)
    if faults:
        raise ValueError(f"the variables do not fit {type(model).__name__}: {'; '.join(faults)}")
    state: dict[str, torch.Tensor] = {}
    for part in parts:
        converted = part.convert({name: arrays[name].astype(np.float32) for name in part.shapes})
        state |= {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in converted.items()}
    # Assigned, not copied: the model may be one of `build_empty_model`, without memory of its own.
    model.load_state_dict(state, assign=True)
    if isinstance(model, FrameAttentionModel):
        # The published attention was trained on padded clips and never masked them.
        model.attend_to_padding = True


def _to_array(variable: Any) -> np.ndarray:
    # NumPy takes no tensor with a gradient, on another device or in bfloat16.
    if isinstance(variable, torch.Tensor):
        variable = variable.detach().to("cpu", torch.float32)
    return np.asarray(variable)


@functools.singledispatch
def published_parts(model: Model) -> list[Part]:
    """Returns the published variables of `model`; ValueError where no published system has it, or its options."""
    raise ValueError(f"no published variables are known for {type(model).__name__}")


@published_parts.register
def _frame_means(model: LogisticModel | MoEModel) -> list[Part]:
    return head("head", model.head)


@published_parts.register
def _dbof(model: DBoFModel) -> list[Part]:
    bag = model.bag
    return [
        *batch_norm("input_bn", "bag.input_bn", bag.input_bn),
        *linear("cluster_weights", "bag.cluster_weights", bag.cluster_weights),
        *batch_norm("cluster_bn", "bag.cluster_bn", bag.cluster_bn),
        *linear("hidden1_weights", "bag.hidden_weights", bag.hidden_weights),
        *batch_norm("hidden1_bn", "bag.hidden_bn", bag.hidden_bn),
        *head("head", model.head),
    ]


@published_parts.register
def _late_fusion(model: LateFusionModel) -> list[Part]:
    parts = batch_norm("input_bn", "input_bn", model.input_bn)
    for feature, pool, key in _features(model.pools, "pools"):
        parts += _pool(feature, pool, key)
    if model.hidden is not None:
        parts += linear("hidden1_weights", "hidden.linear", model.hidden.linear)
        parts += batch_norm("hidden1_bn", "hidden.bn", model.hidden.bn)
    return [*parts, *_gating(model.gating), *head("head", model.head)]


def _gating(gating: ContextGating | None) -> list[Part]:
    if gating is None:
        return []
    return [
        *linear("gating_weights_2", "gating.gate", gating.gate, biases="gating_biases"),
        *batch_norm("gating_bn", "gating.gate_bn", gating.gate_bn),
    ]


def _pool(feature: str, pool: nn.Module, key: str) -> list[Part]:
    if isinstance(pool, NetVLAD | NetFV):
        scope = f"{feature}_VLAD" if isinstance(pool, NetVLAD) else f"{feature}_FV"
        parts = _assignment(scope, key, pool.assignment)
        if isinstance(pool, NetFV):
            parts.append(same(f"{scope}/covar_weights", f"{key}.deviations", pool.deviations))
        # The published centers have a first axis for the batch.
        if pool.centers is not None:
            parts.append(same(f"{scope}/cluster_weights2", f"{key}.centers", pool.centers, leading=1))
        return parts
    scope, pool = f"{feature}_DBOF", cast(SoftDBoF | GatedDBoF, pool)
    parts = _assignment(scope, key, pool.assignment)
    if isinstance(pool, GatedDBoF):
        parts.append(matrix(f"{scope}/dim_red", f"{key}.gate_projection", pool.gate_projection))
        parts += linear(f"{scope}/cluster_weights_2", f"{key}.gate", pool.gate)
        parts += batch_norm(f"{scope}/cluster_bn_2", f"{key}.gate_bn", pool.gate_bn)
    return parts


def _assignment(scope: str, key: str, assignment: Assignment) -> list[Part]:
    return [
        *linear(f"{scope}/cluster_weights", f"{key}.assignment.weights", assignment.weights),
        *batch_norm(f"{scope}/cluster_bn", f"{key}.assignment.bn", assignment.bn),
    ]


def _features(layers: nn.ModuleList, key: str) -> list[tuple[str, nn.Module, str]]:
    """Returns (published prefix, layer, its key) for the layers of a model that has one a feature."""
    if len(layers) > len(FEATURE_SCOPES):
        raise ValueError(
            f"published systems have {len(FEATURE_SCOPES)} features (rgb, audio), found {len(layers)} in the model"
        )
    scopes = FEATURE_SCOPES[: len(layers)]
    return [(scope, layer, f"{key}.{i}") for i, (scope, layer) in enumerate(zip(scopes, layers, strict=True))]


@published_parts.register
def _frame_attention(model: FrameAttentionModel) -> list[Part]:
    # slim numbers layers without a name in the order in which the graph was built: units, gates, then the head.
    layers = _features(model.attentions, "attentions")
    num_layers = len(layers)
    parts: list[Part] = []
    for index, (feature, layer, key) in enumerate(layers):
        attention = cast(FrameAttention, layer)
        parts += batch_norm(f"{feature}_input_bn", f"{key}.input_bn", attention.input_bn)
        parts += dense(_numbered(index), f"{key}.units", attention.units)
        parts += batch_norm(f"{feature}_cluster_bn", f"{key}.unit_bn", attention.unit_bn)
        parts += dense(_numbered(num_layers + index), f"{key}.gate", attention.gate)
    return parts + head("head", model.head, logistic_scope=_numbered(2 * num_layers))


@published_parts.register
def _lstm(model: LSTMModel) -> list[Part]:
    parts = [
        lstm(f"{_layer(index)}/basic_lstm_cell", f"lstm.layers.{index}.0", cells[0])
        for index, cells in enumerate(_cells(model.lstm))
    ]
    return parts + head("head", model.head)


@published_parts.register
def _bidirectional_lstm(model: BidirectionalLSTMModel) -> list[Part]:
    [[forwards, backwards]], [[top]] = _cells(model.both_directions), _cells(model.lstm)
    return [
        lstm(f"{_direction('fw')}/basic_lstm_cell", "both_directions.layers.0.0", forwards),
        lstm(f"{_direction('bw')}/basic_lstm_cell", "both_directions.layers.0.1", backwards),
        lstm(f"{_layer(0)}/basic_lstm_cell", "lstm.layers.0.0", top),
        *head("head", model.head),
    ]


@published_parts.register
def _bidirectional_gru(model: BidirectionalGRUModel) -> list[Part]:
    return [*_gru_stack("", "gru", model.gru), *_gating(model.gating), *head("head", model.head)]


@published_parts.register
def _branched_gru(model: BranchedGRUModel) -> list[Part]:
    if model.gating is not None:
        raise ValueError("gating: the published branched GRU cannot run with it, and has no variables for it")
    layers = _features(model.branches, "branches")
    parts: list[Part] = []
    for index, (feature, layer, key) in enumerate(layers):
        branch = cast(GRUBranch, layer)
        parts += batch_norm(f"{feature}_input_bn", f"{key}.input_bn", branch.input_bn)
        parts += dense(_numbered(index), f"{key}.linear", branch.linear)
        parts += batch_norm(f"{feature}_cluster_bn", f"{key}.linear_bn", branch.linear_bn)
        parts += _gru_stack(f"{feature}/", f"{key}.gru", branch.gru)
    return parts + head("head", model.head, logistic_scope=_numbered(len(layers)))


def _gru_stack(scope: str, key: str, stack: BidirectionalGRU) -> list[Part]:
    return [
        *gru(f"{scope}{_direction('fw')}/gru_cell", f"{key}.forwards", stack.forwards),
        *gru(f"{scope}{_direction('bw')}/gru_cell", f"{key}.backwards", stack.backwards),
        *gru(f"{scope}{_layer(0)}/gru_cell", f"{key}.top", stack.top),
    ]


def _cells(stack: LSTM) -> list[list[LSTMCellWeights]]:
    """Returns the cells by layer and direction."""
    return [list(cast(Iterable[LSTMCellWeights], layer)) for layer in stack.layers]


def _layer(index: int) -> str:
    return f"rnn/multi_rnn_cell/cell_{index}"


def _direction(name: str) -> str:
    return f"bidirectional_rnn/{name}/multi_rnn_cell/cell_0"


def _numbered(index: int) -> str:
    """Returns the scope that slim gives to the layer `index` of those that were not named."""
    return f"fully_connected_{index}" if index else "fully_connected"
