"""Loops over the bytes of a shard with instructions that Numba does not offer: streaming stores and unaligned loads."""

# ruff: noqa: ARG001 - Numba calls these functions with what it has

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from yt8m_ray.compiled import IS_COMPILED, compiled

_LINE_BYTES = 64  # alignment of a target, and divisor of a size

# Bits of the two float32 values in a word.
_EXPONENTS = np.uint64(0x7F8000007F800000)
_LOWEST_OF_EXPONENTS = np.uint64(0x0080000000800000)
_SIGNS = np.uint64(0x8000000080000000)


# A block is larger than the processor's caches and is not read at once. An ordinary store first fetches the line that
# it overwrites; a nontemporal one does not, which halves the time of copying frames. Where LLVM or the processor has no
# such store, it is an ordinary one.
@intrinsic
def _stream_bytes(typing_context: Any, target: Any, source: Any, size: Any) -> Any:
    """Copies `size` bytes between two addresses; target and size are multiples of _LINE_BYTES."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, start, count = arguments
        line = ir.VectorType(ir.IntType(8), _LINE_BYTES)
        zero, step = ir.Constant(count.type, 0), ir.Constant(count.type, _LINE_BYTES)
        is_nontemporal = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with cgutils.for_range_slice(builder, zero, count, step, inc=True) as (offset, _):
            value = builder.load(builder.inttoptr(builder.add(start, offset), line.as_pointer()), align=1)
            place = builder.inttoptr(builder.add(to, offset), line.as_pointer())
            builder.store(value, place, align=_LINE_BYTES).set_metadata("nontemporal", is_nontemporal)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), generate


@intrinsic
def _finish_streams(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


# NumPy's view of eight bytes as one word would have to be aligned, and the values of a shard are not.
@intrinsic
def _load_word(typing_context: Any, data: Any, position: Any) -> Any:
    """Returns eight bytes of a contiguous uint8 array as a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(address, align=1)

    return types.uint64(data, position), generate


# To a type checker an intrinsic still takes the compiler's own argument.
_stream: Any = _stream_bytes
_finish: Any = _finish_streams
_load: Any = _load_word


@compiled
def copy_rows(
    data: np.ndarray, start: int, stride: int, num_rows: int, out: np.ndarray, column: int, size: int
) -> None:
    """Copies `size` bytes at every `stride` of `data[start:]` to the first rows of `out`, from `column` on."""
    width = out.shape[1]
    if IS_COMPILED and not (size | column | width | out.ctypes.data) % _LINE_BYTES:
        to, begin = out.ctypes.data + column, data.ctypes.data + start
        for index in range(num_rows):
            _stream(np.uintp(to + index * width), np.uintp(begin + index * stride), np.uintp(size))
        return
    # Unsigned, so that no index is tested for being negative and the inner loop moves whole vectors.
    for index in range(num_rows):
        target = out[index]
        source, first = np.uint64(start + index * stride), np.uint64(column)
        for offset in range(np.uint64(size)):
            target[first + offset] = data[source + offset]


@compiled
def finish_copies() -> None:
    """Makes what was copied visible to other threads."""
    if IS_COMPILED:
        _finish()


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
