"""Copies that bypass the processor's caches: a block is larger than they are, and is not read at once.

An ordinary store first fetches the line that it overwrites; these do not, which halves the time of copying frames into
a block. Where LLVM or the processor has no such store, it is an ordinary one.
"""

# ruff: noqa: ARG001 - Numba calls these functions with what it has

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from yt8m_ray.compiled import IS_COMPILED, compiled

_LINE_BYTES = 64
"""Alignment of a target, and divisor of a size."""


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
    """Makes what was streamed visible to other threads."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


# To a type checker an intrinsic still takes the compiler's own argument.
_stream: Any = _stream_bytes
_finish: Any = _finish_streams


@compiled
def copy_rows(
    data: np.ndarray, start: int, stride: int, num_rows: int, out: np.ndarray, row: int, column: int, size: int
) -> None:
    """Copies `size` bytes at every `stride` of `data[start:]` to consecutive rows of `out`, from `column` on."""
    width = out.shape[1]
    if IS_COMPILED and not (size | column | width | out.ctypes.data) % _LINE_BYTES:
        to, begin = out.ctypes.data + row * width + column, data.ctypes.data + start
        for index in range(num_rows):
            _stream(np.uintp(to + index * width), np.uintp(begin + index * stride), np.uintp(size))
        return
    # Unsigned, so that no index is tested for being negative and the inner loop moves whole vectors.
    for index in range(num_rows):
        target = out[row + index]
        source, first = np.uint64(start + index * stride), np.uint64(column)
        for offset in range(np.uint64(size)):
            target[first + offset] = data[source + offset]


@compiled
def finish_copies() -> None:
    """Makes what was copied visible to other threads."""
    if IS_COMPILED:
        _finish()
