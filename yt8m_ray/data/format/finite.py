"""Whether float32 values are finite numbers, by their bits: a compiled loop over unaligned bytes of a shard."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from yt8m_ray.compiled import IS_COMPILED, compiled

_EXPONENTS = np.uint64(0x7F8000007F800000)
_LOWEST_OF_EXPONENTS = np.uint64(0x0080000000800000)
_SIGNS = np.uint64(0x8000000080000000)
"""Bits of the two float32 values in a word."""


@intrinsic
def _load_word(_typing: Any, data: Any, position: Any) -> Any:
    """Returns eight bytes of a contiguous uint8 array as a uint64, at any position: an array's view must be aligned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(address, align=1)

    return types.uint64(data, position), generate


# To a type checker an intrinsic still takes the compiler's own argument.
_load: Any = _load_word


@compiled
def are_finite(data: np.ndarray, start: int, end: int) -> bool:
    """Returns whether the float32 values in `data[start:end]`, aligned or not, are finite numbers."""
    carries = np.uint64(0)
    num_words = (end - start) // 8 if IS_COMPILED else 0
    for word in range(num_words):
        # An exponent of ones, which infinities and NaN have, carries into the place of the sign.
        carries |= (_load(data, start + 8 * word) & _EXPONENTS) + _LOWEST_OF_EXPONENTS
    for position in range(start + 8 * num_words, end, 4):
        if data[position + 3] & 0x7F == 0x7F and data[position + 2] >= 0x80:
            return False
    return bool(carries & _SIGNS == 0)
