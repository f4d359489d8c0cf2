"""Activations as codes: the compiled loop and torch's operations say the same, also where rows are odd."""

from __future__ import annotations

import pytest
import torch

from yt8m_ray.inference.quantization.int8_linear import LEVELS, MIDDLE, encode, encode_by_torch

ROWS = {
    "ordinary": torch.randn(5, 333, generator=torch.Generator().manual_seed(0)),
    "not contiguous": torch.randn(40, 7, generator=torch.Generator().manual_seed(1)).T,
    "ties": torch.tensor([[63.0, 0.5, 1.5, 2.5, -0.5, -1.5]]),
    "zeros": torch.zeros(2, 4),
    "smaller than a step has an inverse": torch.full((1, 3), 1e-39),
    "large": torch.tensor([[3e38, -3e38, 1.0]]),
    "not finite": torch.tensor([[1.0, torch.nan], [torch.inf, 1.0], [1.0, -torch.inf], [2.0, 1.0]]),
    "no rows": torch.zeros(0, 3),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_both_ways_agree(rows: torch.Tensor) -> None:
    codes, step = encode(rows)
    other_codes, other_step = encode_by_torch(rows)

    assert torch.equal(codes[step[:, 0].isfinite()], other_codes[step[:, 0].isfinite()])
    torch.testing.assert_close(step, other_step, rtol=0, atol=0, equal_nan=True)


def test_a_code_is_the_nearest_step_of_its_row() -> None:
    rows = ROWS["ordinary"]

    codes, step = encode(rows)

    assert int(codes.min()) >= MIDDLE - LEVELS
    assert int(codes.max()) <= MIDDLE + LEVELS
    assert float(((codes.float() - MIDDLE) * step - rows).abs().max()) <= float(step.max()) * 0.5001
    torch.testing.assert_close(step[:, 0] * LEVELS, rows.abs().amax(dim=1))


def test_only_a_row_that_is_not_finite_has_no_step() -> None:
    _, step = encode(ROWS["not finite"])

    assert step[:, 0].isnan().tolist() == [True, True, True, False]
