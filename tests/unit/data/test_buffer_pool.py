from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from yt8m_ray.data.buffer_pool import BufferPool


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_an_array_that_nobody_has_is_handed_out_again() -> None:
    pool = BufferPool(1000)
    first = address(pool.take())

    assert address(pool.take()) == first


VIEWS: dict[str, Callable[[np.ndarray], object]] = {
    "itself": lambda array: array,
    "a slice of a slice": lambda array: array[10:][5:],
    "another type": lambda array: array[:8].view(np.float32).reshape(1, 2),
    "a memoryview": lambda array: array.data[3:5].toreadonly(),
    "an Arrow buffer": lambda array: pa.py_buffer(array).slice(2, 3),
    "an array from it": lambda array: np.frombuffer(array[4:8].data, np.uint8),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_an_array_is_not_handed_out_while_a_view_of_it_lives(view: Callable[[np.ndarray], object]) -> None:
    pool = BufferPool(1000)
    taken = pool.take()
    first = address(taken)
    kept = view(taken)
    del taken

    assert address(pool.take()) != first
    del kept
    assert address(pool.take()) == first


def test_arrays_begin_with_a_cache_line_and_have_their_size() -> None:
    pool = BufferPool(100)
    arrays = [pool.take() for _ in range(20)]

    assert {address(array) % 64 for array in arrays} == {0}
    assert {array.shape for array in arrays} == {(100,)}
    assert len({address(array) for array in arrays}) == 20
