"""The layer of 8-bit integers: what it returns, on every kernel, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from yt8m_ray.inference.quantization.int8_linear import LEVELS, Int8Linear, Kernel

# `_int_mm`, which is cuBLAS on a GPU, is slow but right on a CPU.
KERNELS: list[Kernel] = ["float32", "cublas"]
if torch.backends.mkldnn.is_available():
    KERNELS.append("onednn")
if "fbgemm" in torch.backends.quantized.supported_engines:
    KERNELS.append("fbgemm")


def layer_of(outputs: int, inputs: int, kernel: Kernel | None = None, *, bias: bool = True) -> Int8Linear:
    generator = torch.Generator().manual_seed(outputs)
    codes = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
    scale = torch.rand(outputs, 1, generator=generator)
    return Int8Linear(codes, scale, torch.randn(outputs, generator=generator) if bias else None, kernel=kernel)


def inputs_of(rows: int, columns: int) -> torch.Tensor:
    return (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * torch.logspace(-3, 3, rows)[:, None]
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("outputs", "inputs", "rows"), [(1, 1, 1), (5, 7, 3), (64, 32, 20), (33, 4100, 2)])
def test_it_adds_up_products_of_integers(kernel: Kernel, outputs: int, inputs: int, rows: int) -> None:
    layer, x = layer_of(outputs, inputs, kernel), inputs_of(rows, inputs)
    scale = x.double().abs().amax(dim=1, keepdim=True) / LEVELS
    rounded = (x / (x.abs().amax(dim=1, keepdim=True) / LEVELS)).round().double()

    expected = scale * (rounded @ layer.weight.double().T) + layer.bias.double()

    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_largest_sums_do_not_saturate(kernel: Kernel) -> None:
    codes = torch.full((4, 5000), 127, dtype=torch.int8)

    found = Int8Linear(codes, torch.ones(4, 1), None, kernel=kernel)(torch.ones(2, 5000))

    torch.testing.assert_close(found, torch.full((2, 4), 127.0 * 5000), rtol=1e-6, atol=0)


def test_all_kernels_agree_to_the_bit_where_the_sums_fit_float32() -> None:
    x = inputs_of(9, 1000)

    found = [layer_of(40, 1000, kernel)(x) for kernel in KERNELS]

    assert all(torch.equal(each, found[0]) for each in found[1:])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_is_computed_alike_in_any_batch(kernel: Kernel) -> None:
    layer, x = layer_of(20, 300, kernel), inputs_of(9, 300)

    together = layer(x)

    assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(len(x)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_zeros_give_the_bias_and_no_rows_give_none(kernel: Kernel) -> None:
    layer = layer_of(20, 300, kernel)

    assert torch.equal(layer(torch.zeros(2, 3, 300)), layer.bias.expand(2, 3, 20))
    assert layer(torch.zeros(0, 300)).shape == (0, 20)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    layer, x = layer_of(20, 300), inputs_of(3, 300)
    x[1, 7] = torch.nan

    found = layer(x)

    assert found.isnan().any(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_matrix_can_be_read_again(kernel: Kernel) -> None:
    layer = layer_of(30, 30, kernel, bias=False)
    identity = torch.eye(30)

    torch.testing.assert_close(layer(identity).T, layer.weight)
    assert torch.equal(layer.diagonal, layer.weight.diagonal())


def test_it_is_near_the_layer_of_floats() -> None:
    weights, x = torch.randn(50, 1000), torch.randn(8, 1000)
    scale = weights.abs().amax(dim=1, keepdim=True) / 127

    found = Int8Linear((weights / scale).round().to(torch.int8), scale, None)(x)

    expected = F.linear(x, weights)
    assert float((found - expected).norm() / expected.norm()) < 0.025
