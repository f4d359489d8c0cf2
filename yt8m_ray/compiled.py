"""How loops over bytes and numbers are compiled: the one decorator of every such loop.

Numba compiles at the first call (seconds, once a machine: the result is cached beside the source). It sees changes of
the file whose loop it compiled, not of another file that the loop calls into: after such a change, `make clean`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Returns the function, compiled without Python objects, so that it runs beside other threads."""
    return _cached(function, {})


def borrowing(function: F) -> F:
    """Returns the function, compiled to borrow its arrays: for loops that make no array and return none.

    Numba counts the references to arrays that are taken out of a tuple or handed to another function, by instructions
    that wait for each other: for rows of twenty numbers a quarter of the time. The option has no public name, which
    the pin of Numba's version allows for.
    """
    return _cached(function, {"_nrt": False})


def inlined(function: F) -> F:
    """Returns the function, compiled into each loop that calls it: for steps of a few instructions.

    A call of a compiled function counts the references to each array that it is given, which takes longer than such a
    step.
    """
    return cast(F, numba.njit(inline="always")(function))


def _cached(function: F, options: Any) -> F:
    try:
        return cast(F, numba.njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return cast(F, numba.njit(nogil=True, **options)(function))
