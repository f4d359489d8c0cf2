"""Squeeze-and-excitation gates against NumPy, and the gated bag of frames that stands on them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yt8m_ray.models import build_model
from yt8m_ray.models.layers import BatchNorm
from yt8m_ray.models.nextvlad import SEGate
from yt8m_ray.models.seventh_place_2019 import BatchNormSEGate

BATCH_NORM = functools.partial(BatchNorm, momentum=0.1, epsilon=1e-5)
INPUTS = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
FRAMES = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
MASK = torch.tensor([[True] * 4, [True, False, False, False]])


def randomized(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        noise = 0.3 * torch.randn_like(tensor)
        tensor.add_(noise.abs() if name.endswith("variance") else noise)
    return module.eval()


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def normalized(values: np.ndarray, bn: BatchNorm) -> np.ndarray:
    scale = array(bn.gamma) / np.sqrt(array(bn.moving_variance) + 1e-5)
    return (values - array(bn.moving_mean)) * scale + array(bn.beta)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def affine(values: np.ndarray, linear: nn.Linear) -> np.ndarray:
    return values @ array(linear.weight).T + array(linear.bias)


def gated(values: np.ndarray, gate: BatchNormSEGate) -> np.ndarray:
    squeezed = np.maximum(affine(normalized(values, gate.input_bn), gate.squeeze), 0)
    return values * sigmoid(affine(normalized(squeezed, gate.squeeze_bn), gate.excite))


def test_the_gate_of_nextvlads_authors_has_its_batch_norm_before_the_relu_and_no_bias() -> None:
    gate: Any = randomized(SEGate(8, reduction=4, batch_norm=BATCH_NORM))
    squeezed = np.maximum(normalized(array(INPUTS) @ array(gate.squeeze.weight).T, gate.bn), 0)
    expected = array(INPUTS) * sigmoid(squeezed @ array(gate.excite.weight).T)
    assert gate.squeeze.bias is None and gate.excite.bias is None
    np.testing.assert_allclose(gate(INPUTS).detach(), expected, rtol=1e-5)


def test_the_gate_of_2019_has_its_batch_norms_before_each_linear_layer() -> None:
    gate: Any = randomized(BatchNormSEGate(8, reduction=4, batch_norm=BATCH_NORM))
    np.testing.assert_allclose(gate(INPUTS).detach(), gated(array(INPUTS), gate), rtol=1e-5)


def test_frames_are_gated_one_by_one() -> None:
    gate: Any = randomized(BatchNormSEGate(8, reduction=4, batch_norm=BATCH_NORM))
    found = gate(FRAMES, MASK).detach()
    np.testing.assert_allclose(found[1, 0], gated(array(FRAMES[1, :1]), gate)[0], rtol=1e-5)


def test_masked_frames_count_in_no_statistic_of_a_gate() -> None:
    masked, plain = (BatchNormSEGate(8, reduction=4, batch_norm=BATCH_NORM) for _ in range(2))
    for gate in (masked, plain):  # loading settles a batch norm's moving statistics: both are loaded
        gate.load_state_dict(masked.state_dict())
    torch.testing.assert_close(masked(FRAMES, MASK)[MASK], plain(FRAMES[MASK]))
    torch.testing.assert_close(masked.state_dict(), plain.state_dict())


def test_a_gate_narrower_than_its_reduction_keeps_one_unit() -> None:
    assert SEGate(3, reduction=8, batch_norm=BATCH_NORM).squeeze.out_features == 1


def test_a_bag_of_frames_pools_gated_units_by_maximum_and_by_the_mean_over_real_frames() -> None:
    config = {"name": "gated_dbof_2019", "num_clusters": 8, "hidden_dim": 4, "sampling": {"name": "all"}}
    model: Any = randomized(build_model(config, feature_sizes=(5, 3), num_classes=2))
    found = model.represent(FRAMES, MASK.sum(dim=1)).detach()
    for row in range(2):
        units = np.maximum(affine(array(FRAMES[row][MASK[row]]), model.frame_linear), 0)
        units = gated(units, model.frame_gate)
        pooled = np.concatenate([units.max(axis=0), units.sum(axis=0) / len(units)])
        hidden = np.maximum(array(model.hidden.weight) @ normalized(pooled, model.pooled_bn), 0)
        np.testing.assert_allclose(found[row], gated(hidden[None], model.gate)[0], rtol=1e-4, atol=1e-6)


def test_gates_of_frames_start_as_torchs_convolutions_and_gates_of_clips_as_kaimings_normal() -> None:
    torch.manual_seed(0)
    config = {"name": "gated_dbof_2019", "num_clusters": 256, "hidden_dim": 256, "frame_se_reduction": 2}
    model: Any = build_model(config, feature_sizes=(5, 3), num_classes=2)
    for frames_of, bound in ((model.frame_gate.squeeze, 256**-0.5), (model.frame_gate.excite, 128**-0.5)):
        assert 0.95 * bound < float(frames_of.weight.detach().abs().max()) <= bound
        assert 0.9 * bound < float(frames_of.bias.detach().abs().max()) <= bound
    assert float(model.gate.squeeze.weight.detach().std()) == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert not model.gate.squeeze.bias.any()
