"""int8 weights: the error bound, which axis is a channel, what stays float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yt8m_ray.inference.quantize import channel_axes, dequantize_state, quantize_state, quantize_uniformly
from yt8m_ray.models.recurrent import GRU, LSTM


class TwoLayouts(nn.Module):
    """A Linear, stored [out, in], and a plain parameter, stored [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.cluster_weights = nn.Parameter(torch.randn(6, 4))
        self.centers = nn.Parameter(torch.randn(1, 6, 4))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    axis=st.integers(0, 1),
    log10_scale=st.integers(-30, 30),
)
def test_every_weight_comes_back_within_half_its_channels_scale(
    seed: int, rows: int, columns: int, axis: int, log10_scale: int
) -> None:
    generator = np.random.default_rng(seed)
    weights = (generator.standard_normal((rows, columns)) * 10.0**log10_scale).astype(np.float32)
    state = quantize_state({"w": torch.from_numpy(weights)}, {"w": axis}, min_elements=0)
    back = dequantize_state(state)["w"].numpy().astype(np.float64)
    scale = np.abs(weights.astype(np.float64)).max(axis=1 - axis, keepdims=True) / 127
    assert np.all(np.abs(back - weights) <= scale * (0.5 + 1e-4) + 1e-37)


def test_channels_of_a_linear_are_its_rows_and_of_a_plain_parameter_its_columns() -> None:
    axes = channel_axes(TwoLayouts())
    assert axes == {"linear.weight": 0, "cluster_weights": 1, "centers": 2}


def test_channels_of_a_convolution_are_its_outputs() -> None:
    assert channel_axes(nn.Sequential(nn.Conv1d(6, 4, 3))) == {"0.weight": 0}


def test_channels_of_recurrent_layers_are_the_units_of_their_gates() -> None:
    assert channel_axes(LSTM(5, 3)) == {"layers.0.0.weight_ih": 0, "layers.0.0.weight_hh": 0}
    assert channel_axes(GRU(5, 3)) == {"gates_kernel": 1, "candidate_kernel": 1}


def test_the_scale_has_one_value_for_each_output_channel() -> None:
    model = TwoLayouts()
    state = quantize_state(model.state_dict(), channel_axes(model), min_elements=0)
    assert state["linear.weight.scale"].shape == (4, 1)
    assert state["cluster_weights.scale"].shape == (1, 4)
    assert state["centers.scale"].shape == (1, 1, 4)


def test_a_large_channel_does_not_coarsen_a_small_one() -> None:
    weights = torch.tensor([[1000.0, 500.0], [0.001, 0.0005]])
    back = dequantize_state(quantize_state({"w": weights}, {"w": 0}, min_elements=0))["w"]
    assert back[1].numpy() == pytest.approx([0.001, 0.0005], abs=0.001 / 254 * 1.001)


def test_a_zero_channel_stays_zero() -> None:
    weights = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    back = dequantize_state(quantize_state({"w": weights}, {"w": 0}, min_elements=0))["w"]
    assert back.tolist() == [[0.0, 0.0], [1.0, -1.0]]


def test_only_matrices_above_the_threshold_are_quantized() -> None:
    state = {"at": torch.ones(10, 10), "above": torch.ones(10, 11), "bias": torch.ones(1000), "steps": torch.tensor(7)}
    quantized = quantize_state(state, {"at": 0, "above": 0}, min_elements=100)
    assert {name: tensor.dtype for name, tensor in quantized.items()} == {
        "at": torch.float32,
        "above": torch.int8,
        "above.scale": torch.float32,
        "bias": torch.float32,
        "steps": torch.int64,
    }


def test_the_quantized_state_shares_no_memory_with_the_model() -> None:
    weights = torch.ones(2, 2)
    quantized = quantize_state({"w": weights}, {}, min_elements=0)
    quantized["w"].zero_()
    assert weights.sum() == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(ValueError, match=r"head\.weight: weights must be finite"):
        quantize_state({"head.weight": torch.tensor([[1.0, bad]])}, {"head.weight": 0}, min_elements=0)


def test_a_state_that_was_never_quantized_comes_back_as_it_is() -> None:
    model = TwoLayouts()
    back = dequantize_state(model.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_the_uniform_codebook_has_the_published_codes_and_values() -> None:
    quantized = quantize_uniformly({"weight": torch.tensor([-1, -0.5, 0, 0.3, 1])}, min_elements=0)
    assert quantized["weight"].tolist() == [0, 64, 127, 166, 255]  # 0 lies half way between two values
    expected = torch.tensor([-1, -0.49803922, -0.00392157, 0.3019608, 1])
    torch.testing.assert_close(dequantize_state(quantized)["weight"], expected, rtol=1e-6, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), size=st.integers(1, 400), log10_scale=st.integers(-20, 20))
def test_every_weight_gets_the_nearest_value_of_its_codebook(seed: int, size: int, log10_scale: int) -> None:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 10.0**log10_scale
    quantized = quantize_uniformly({"weight": weights}, min_elements=0)
    distances = (weights[:, None].double() - quantized["weight.codebook"].double()).abs()
    chosen = distances.gather(1, quantized["weight"].long()[:, None]).squeeze(1)
    slack = 1e-6 * float(weights.abs().max())
    assert (chosen <= distances.min(dim=1).values + slack).all()


def test_small_tensors_and_counters_keep_their_type_beside_codebooks() -> None:
    state = {"weight": torch.randn(40), "bias": torch.randn(20), "count": torch.arange(50)}
    quantized = quantize_uniformly(state, min_elements=20)
    assert quantized.keys() == {"weight", "weight.codebook", "bias", "count"}
    assert torch.equal(quantized["bias"], state["bias"])
    assert torch.equal(dequantize_state(quantized)["count"], state["count"])


def test_a_tensor_of_one_value_comes_back() -> None:
    quantized = quantize_uniformly({"weight": torch.full((30,), 0.25)}, min_elements=0)
    assert torch.equal(dequantize_state(quantized)["weight"], torch.full((30,), 0.25))


def test_a_tensor_that_is_not_finite_is_refused_for_a_codebook() -> None:
    with pytest.raises(ValueError, match="weight: weights must be finite"):
        quantize_uniformly({"weight": torch.tensor([1.0, float("nan")])}, min_elements=0)
