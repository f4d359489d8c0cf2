"""How loops over bytes and numbers are compiled.

Numba compiles at the first call (seconds, once a machine: the result is cached beside the source). It sees changes of
the file whose loop it compiled, not of another file that the loop calls into: after such a change, `make clean`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

IS_COMPILED = not getattr(numba.config, "DISABLE_JIT")  # noqa: B009 - a name that Numba makes when it is imported
"""False where Numba is told to run the loops as Python, which has no instructions of the processor's."""


def compiled(function: F) -> F:
    """Returns the function, compiled without Python objects, so that it runs beside other threads."""
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return cast(F, numba.njit(nogil=True)(function))
