"""How loops over bytes and numbers are compiled: the decorators of such loops, and the instructions they lack.

Numba compiles at the first call (seconds, once a machine: the result is cached beside the source). It sees changes of
the file whose loop it compiled, not of another file that the loop calls into: after such a change, `make clean`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

IS_COMPILED = not getattr(numba.config, "DISABLE_JIT")  # noqa: B009 - a name that Numba makes when it is imported
"""False where Numba is told to run the loops as Python, which has none of the instructions below."""


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


def _instruction(make: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what compiled loops call, of a function that says which instructions stand for it."""
    return cast(Callable[..., Any], intrinsic(make))


@_instruction
def load_word(_typing: Any, data: Any, position: Any) -> Any:
    """Returns eight bytes of a contiguous uint8 array as a uint64, the first one lowest (on the machines that we know).

    No bounds are tested.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_word_pointer(context, builder, signature, arguments), align=1)

    return types.uint64(data, position), generate


@_instruction
def store_word(_typing: Any, data: Any, position: Any, word: Any) -> Any:
    """Writes a uint64 as eight bytes of a contiguous uint8 array: the opposite of `load_word`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _word_pointer(context, builder, signature, arguments), align=1)
        return context.get_dummy_value()

    return types.void(data, position, word), generate


@_instruction
def count_trailing_zeros(_typing: Any, word: Any) -> Any:
    """Returns how many of a uint64's lowest bits are 0, as a uint64: 64 of 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(word), generate


def _word_pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())


def _cached(function: F, options: Any) -> F:
    try:
        return cast(F, numba.njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return cast(F, numba.njit(nogil=True, **options)(function))
