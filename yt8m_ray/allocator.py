"""How this process gets memory for tensors on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""From glibc's malloc.h."""

_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed tensors for the next ones; where the C library is not glibc, nothing.

    By its own settings glibc maps what exceeds 32 MB anew each time and gives it back when it is freed: the kernel then
    clears the pages of a batch of frames, of a NetVLAD's clusters or of gradients one by one in every step. The process
    holds its largest need from then on. To be called before threads allocate.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        mallopt(_M_ARENA_MAX, 1)  # other threads' arenas hold 64 MB at most, and map the rest
