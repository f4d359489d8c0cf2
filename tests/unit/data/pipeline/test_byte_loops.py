"""Whether values are finite, by their bits, beside NumPy's own answer."""

from __future__ import annotations

import numpy as np
import pytest

from yt8m_ray.data.pipeline.byte_loops import are_finite

# A quiet and a signalling NaN of either sign, and both infinities.
NOT_FINITE = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7F800000, 0xFF800000]
# Of either sign the largest finite number, the smallest, and 0.
FINITE = [0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000001, 0x00000000, 0x80000000]


def place(values: np.ndarray, offset: int) -> np.ndarray:
    """Returns the bytes of values behind `offset` bytes of noise, and before some more."""
    return np.frombuffer(b"\xff" * offset + values.tobytes() + b"\xff" * 9, np.uint8)


@pytest.mark.parametrize("bits", NOT_FINITE)
@pytest.mark.parametrize("size", [1, 2, 3, 16, 17])
def test_one_value_that_is_not_finite_is_seen_at_every_place(size: int, bits: int) -> None:
    for index in range(size):
        values = np.full(size, 0xFF7FFFFF, np.uint32)
        values[index] = bits
        assert not np.isfinite(values.view(np.float32)).all()
        for offset in range(9):
            assert not are_finite(place(values, offset), offset, offset + 4 * size), (index, offset)


@pytest.mark.parametrize("size", [0, 1, 2, 5, 16, 17])
def test_finite_values_are_taken_whatever_surrounds_them(size: int) -> None:
    values = np.resize(np.array(FINITE, np.uint32), size)

    for offset in range(9):
        assert are_finite(place(values, offset), offset, offset + 4 * size), offset


def test_the_answer_is_that_of_numpy_for_any_bits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        exponents = rng.choice([0, 1, 127, 254, 255], 6, p=[0.2, 0.2, 0.2, 0.35, 0.05]).astype(np.uint32) << 23
        values = exponents | rng.integers(0, 1 << 23, 6, dtype=np.uint32) | rng.integers(0, 2, 6, dtype=np.uint32) << 31
        data = place(values, 3)
        assert are_finite(data, 3, 27) == bool(np.isfinite(values.view(np.float32)).all()), values
