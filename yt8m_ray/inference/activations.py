"""Activations as 8-bit codes with a scale a row; the other side of the products of `int8_linear`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from yt8m_ray.compiled import compiled

LEVELS = 63
"""Activations are -63..63: two products then fit the 16 bits in which a CPU without VNNI adds them up."""

MIDDLE = 64
"""Code of an activation of 0: codes are unsigned, as the engines for x86 want one of the two sides."""

_TINY = float(np.finfo(np.float32).tiny)
_MAGNITUDE_BITS = np.int32(0x7FFFFFFF)
_INFINITE_BITS = np.int32(0x7F800000)


def encode(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns codes uint8 [N, D], 1..127, of activations float32 [N, D], and what a step is worth, float32 [N, 1].

    A row's step is its largest magnitude / 63; NaN for a row that is not finite, so that its outputs are not either.
    A row whose largest magnitude is next to nothing is all 64: 1 / step would be infinite.
    """
    rows = rows.detach()
    if rows.device.type != "cpu":
        return _encode_by_torch(rows)
    codes, step = torch.empty(rows.shape, dtype=torch.uint8), torch.empty(len(rows), 1)
    values = rows.contiguous().numpy()
    _encode_rows(values, values.view(np.int32), codes.numpy(), step[:, 0].numpy())
    return codes, step


def _encode_by_torch(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    step = rows.abs().amax(dim=1, keepdim=True) / LEVELS
    step = torch.where(step.isfinite(), step, torch.nan)
    factor = torch.where(step > _TINY, 1 / step, 0.0)
    return (torch.nan_to_num(rows) * factor).round_().add_(MIDDLE).to(torch.uint8), step


@compiled
def _encode_rows(rows: Any, bits: Any, codes: Any, steps: Any) -> None:
    for row in range(len(rows)):
        # Magnitudes of floats have the order of their bits, NaN above all; a maximum of integers runs in vectors.
        largest_bits = np.int32(0)
        for column in range(rows.shape[1]):
            largest_bits = max(largest_bits, bits[row, column] & _MAGNITUDE_BITS)
        if largest_bits >= _INFINITE_BITS:
            steps[row] = np.nan
            codes[row] = MIDDLE
            continue
        largest = np.float32(0)
        for column in range(rows.shape[1]):
            if bits[row, column] & _MAGNITUDE_BITS == largest_bits:
                largest = abs(rows[row, column])
                break
        step = largest / np.float32(LEVELS)
        factor = np.float32(1) / step if step > _TINY else np.float32(0)
        steps[row] = step
        for column in range(rows.shape[1]):
            codes[row, column] = np.uint8(np.int32(np.rint(rows[row, column] * factor)) + MIDDLE)
