"""How loops over bytes and numbers are compiled: at the first call, in seconds, once a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# False where NUMBA_DISABLE_JIT runs the loops as Python, which has no instructions of the processor's.
IS_COMPILED = not getattr(numba.config, "DISABLE_JIT")  # noqa: B009 - a name that Numba makes when it is imported


def compiled(function: F) -> F:
    """Returns the function, compiled without Python objects, so that it runs beside other threads."""
    try:
        # The cache sees changes of the file whose loop was compiled, not of another file that the loop calls into:
        # after such a change, `make clean`.
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written to.
        return cast(F, numba.njit(nogil=True)(function))
