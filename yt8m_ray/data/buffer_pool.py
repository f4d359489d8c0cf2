"""Memory that is used again once no view of it is left."""

from __future__ import annotations

import functools
import sys
import threading

import numpy as np

# A fresh page costs more than the bytes written to it, so arrays are kept; and the copies of `byte_loops` need lines of
# the cache.
_ALIGNMENT = 64
# Of each size, and one array at least: the pools of the sizes together are bounded by the cache below.
_MOST_KEPT = 8
_MOST_BYTES_KEPT = 512 << 20


class BufferPool:
    """Provides uint8 arrays, and reuses one when every view of it is gone. Threads may share a pool."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._arrays: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self) -> np.ndarray:
        """Returns an array [num_bytes] of arbitrary content, aligned to 64 bytes, that nothing else refers to."""
        with self._lock:
            for array in self._arrays:
                # An array's object counts its views: slices, memoryviews and Arrow buffers each hold a reference.
                if sys.getrefcount(array) == _UNUSED:
                    break
            else:
                array = np.empty(self.num_bytes + _ALIGNMENT, np.uint8)
                if len(self._arrays) < min(_MOST_KEPT, max(_MOST_BYTES_KEPT // self.num_bytes, 1)):
                    self._arrays.append(array)
            start = -array.ctypes.data % _ALIGNMENT
            return array[start : start + self.num_bytes]


@functools.lru_cache(maxsize=8)
def shared_pool(num_bytes: int) -> BufferPool:
    """Returns this process's pool of arrays of one size; the shards that it reads one after another share it."""
    return BufferPool(num_bytes)


def _references_of_an_unused_array() -> int:
    # Counted, not written down: releases of Python differ in what they count for an array in a list and a loop.
    arrays = [np.empty(1, np.uint8)]
    for array in arrays:
        return sys.getrefcount(array)
    raise AssertionError


_UNUSED = _references_of_an_unused_array()
