"""Stored weights: error bounds, which axis is a channel, what stays float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.inference.quantization.quantize import (
    channel_axes,
    dequantize_state,
    quantize_state,
    stored_bytes,
    unpack_int4,
)
from yt8m_ray.models.recurrent import GRU, LSTM

INT8 = TransformConfig(min_elements=0)
INT4 = TransformConfig(name="int4", min_elements=0, group_size=4)
UNIFORM = TransformConfig(name="uniform", min_elements=0)


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
    state = quantize_state({"w": torch.from_numpy(weights)}, {"w": axis}, INT8)
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
    state = quantize_state(model.state_dict(), channel_axes(model), INT8)
    assert state["linear.weight.scale"].shape == (4, 1)
    assert state["cluster_weights.scale"].shape == (1, 4)
    assert state["centers.scale"].shape == (1, 1, 4)


def test_a_large_channel_does_not_coarsen_a_small_one() -> None:
    weights = torch.tensor([[1000.0, 500.0], [0.001, 0.0005]])
    back = dequantize_state(quantize_state({"w": weights}, {"w": 0}, INT8))["w"]
    assert back[1].numpy() == pytest.approx([0.001, 0.0005], abs=0.001 / 254 * 1.001)


def test_a_zero_channel_stays_zero() -> None:
    weights = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    back = dequantize_state(quantize_state({"w": weights}, {"w": 0}, INT8))["w"]
    assert back.tolist() == [[0.0, 0.0], [1.0, -1.0]]


def test_only_matrices_above_the_threshold_are_quantized() -> None:
    state = {"at": torch.ones(10, 10), "above": torch.ones(10, 11), "bias": torch.ones(1000), "steps": torch.tensor(7)}
    quantized = quantize_state(state, {"at": 0, "above": 0}, TransformConfig(min_elements=100))
    assert {name: tensor.dtype for name, tensor in quantized.items()} == {
        "at": torch.float32,
        "above": torch.int8,
        "above.scale": torch.float32,
        "bias": torch.float32,
        "steps": torch.int64,
    }


def test_the_quantized_state_shares_no_memory_with_the_model() -> None:
    weights = torch.ones(2, 2)
    quantized = quantize_state({"w": weights}, {}, INT8)
    quantized["w"].zero_()
    assert weights.sum() == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(ValueError, match=r"head\.weight: weights must be finite"):
        quantize_state({"head.weight": torch.tensor([[1.0, bad]])}, {"head.weight": 0}, INT8)


def test_a_state_that_was_never_quantized_comes_back_as_it_is() -> None:
    model = TwoLayouts()
    back = dequantize_state(model.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_the_uniform_codebook_has_the_published_codes_and_values() -> None:
    quantized = quantize_state({"weight": torch.tensor([-1, -0.5, 0, 0.3, 1])}, {}, UNIFORM)
    assert quantized["weight"].tolist() == [0, 64, 127, 166, 255]  # 0 lies half way between two values
    expected = torch.tensor([-1, -0.49803922, -0.00392157, 0.3019608, 1])
    torch.testing.assert_close(dequantize_state(quantized)["weight"], expected, rtol=1e-6, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), size=st.integers(1, 400), log10_scale=st.integers(-20, 20))
def test_every_weight_gets_the_nearest_value_of_its_codebook(seed: int, size: int, log10_scale: int) -> None:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 10.0**log10_scale
    quantized = quantize_state({"weight": weights}, {}, UNIFORM)
    distances = (weights[:, None].double() - quantized["weight.codebook"].double()).abs()
    chosen = distances.gather(1, quantized["weight"].long()[:, None]).squeeze(1)
    slack = 1e-6 * float(weights.abs().max())
    assert (chosen <= distances.min(dim=1).values + slack).all()


def test_small_tensors_and_counters_keep_their_type_beside_codebooks() -> None:
    state = {"weight": torch.randn(40), "bias": torch.randn(20), "count": torch.arange(50)}
    quantized = quantize_state(state, {}, TransformConfig(name="uniform", min_elements=20))
    assert quantized.keys() == {"weight", "weight.codebook", "bias", "count"}
    assert torch.equal(quantized["bias"], state["bias"])
    assert torch.equal(dequantize_state(quantized)["count"], state["count"])


def test_a_tensor_of_one_value_comes_back() -> None:
    quantized = quantize_state({"weight": torch.full((30,), 0.25)}, {}, UNIFORM)
    assert torch.equal(dequantize_state(quantized)["weight"], torch.full((30,), 0.25))


def test_a_tensor_that_is_not_finite_is_refused_for_a_codebook() -> None:
    with pytest.raises(ValueError, match="weight: weights must be finite"):
        quantize_state({"weight": torch.tensor([1.0, float("nan")])}, {}, UNIFORM)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), rows=st.integers(1, 20), groups=st.integers(1, 6))
def test_a_weight_in_four_bits_comes_back_within_half_its_groups_scale(seed: int, rows: int, groups: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((rows, groups, 4)).astype(np.float32)
    weights *= 10.0 ** np.arange(groups)[:, None]  # a large group does not coarsen a small one
    state = quantize_state({"w": torch.from_numpy(weights.reshape(rows, -1))}, {"w": 0}, INT4)

    back = dequantize_state(state)["w"].numpy().reshape(weights.shape).astype(np.float64)

    assert state["w"].dtype == torch.uint8
    assert state["w"].shape == (rows, groups * 2)
    scale = np.abs(weights.astype(np.float64)).max(axis=2, keepdims=True) / 7
    assert np.all(np.abs(back - weights) <= scale * (0.5 + 1e-4))


def test_the_even_column_is_in_the_low_half_of_a_byte() -> None:
    assert unpack_int4(torch.tensor([[0x1F, 0x80]], dtype=torch.uint8)).tolist() == [[7, -7, -8, 0]]


def test_what_four_bits_are_not_for_is_stored_in_eight() -> None:
    state = {"linear": torch.randn(5, 8), "ragged": torch.randn(5, 6), "centers": torch.randn(8, 5)}

    stored = quantize_state(state, {"linear": 0, "ragged": 0, "centers": 1}, INT4)

    assert {name: tensor.dtype for name, tensor in stored.items() if name in state} == {
        "linear": torch.uint8,
        "ragged": torch.int8,
        "centers": torch.int8,
    }


@pytest.mark.parametrize(("name", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_sixteen_bits_keep_their_digits_of_every_tensor(name: str, digits: int) -> None:
    state = {"matrix": torch.randn(30, 4), "vector": torch.randn(200), "small": torch.randn(3)}

    stored = quantize_state(state, {}, TransformConfig.model_validate({"name": name, "min_elements": 3}))
    back = dequantize_state(stored)

    assert [str(tensor.dtype) for tensor in stored.values()] == [f"torch.{name}"] * 2 + ["torch.float32"]
    for key in ("matrix", "vector"):
        assert back[key].dtype == torch.float32
        torch.testing.assert_close(back[key], state[key], rtol=2.0**-digits, atol=1e-7)
    assert torch.equal(back["small"], state["small"])


def test_what_float16_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"w: float16 holds at most 65,504, found 70000; take bfloat16"):
        quantize_state({"w": torch.tensor([1.0, 7e4])}, {}, TransformConfig(name="float16", min_elements=0))


def test_a_variable_with_the_name_of_anothers_scales_is_refused() -> None:
    with pytest.raises(ValueError, match=r"w\.scale: the model's own variable"):
        quantize_state({"w": torch.ones(2, 2), "w.scale": torch.ones(1)}, {"w": 0}, INT8)


def test_channels_are_quantized_alike_in_parts_and_at_once() -> None:
    weights = torch.randn(700, 1000)  # several parts
    stored = quantize_state({"w": weights}, {"w": 0}, INT8)
    scale = weights.abs().amax(dim=1, keepdim=True) / 127

    assert torch.equal(stored["w.scale"], scale)
    assert torch.equal(stored["w"], (weights / scale).round().to(torch.int8))


@pytest.mark.parametrize("name", ["none", "float16", "bfloat16", "int8", "int4", "uniform", "quantile", "kmeans"])
def test_bytes_are_counted_without_looking_at_values(name: str) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2), nn.Conv1d(6, 4, 3), GRU(5, 3))
    config = TransformConfig.model_validate({"name": name, "min_elements": 10, "group_size": 4})
    stored = quantize_state(model.state_dict(), channel_axes(model), config)

    counted = stored_bytes(model.to("meta").state_dict(), channel_axes(model), config)

    assert counted == sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
