"""Doubles -> the bytes of `"%g"`, exact, compiled into the loops that call it.

It decides the inputs whose result it can prove, which are nearly all, and leaves the others to Python. Does not live
here: the way back (`yt8m_ray.inference.decimals`).
"""

from __future__ import annotations

import fractions
import math

import numpy as np

from yt8m_ray.compiled import compiled, inlined
from yt8m_ray.inference.decimals import MOST_EXACT_EXPONENT, UNDECIDED

MOST_WRITTEN_BYTES = 13
"""Room that `write_general` needs, for numbers such as 1.23456e-105."""

_NUM_WRITTEN = 6
"""Significant digits of "%g"."""

_LEAST_SCALED, _MOST_SCALED = 10 ** (_NUM_WRITTEN - 1), 10**_NUM_WRITTEN
_LEAST_FIXED_EXPONENT = -4

_MOST_SCALING = 2 * MOST_EXACT_EXPONENT
"""10**44 takes a number of 1e-38, the least that a float32 holds in full, to six digits."""

_DOUBT = 1e-9
"""Beyond the rounding error of a number below 10**6, the product with two exact powers of ten: 2**-32."""

_ZERO, _POINT, _PLUS, _MINUS, _E = b"0.+-e"
_ONE = np.uint64(1)


def _scaling() -> np.ndarray:
    """Returns the power of ten that takes a double to six digits, or to seven, by the 11 bits of its exponent.

    It is the least that takes 2**e, which is not above the double, to _LEAST_SCALED; -1 where there is none that can.
    """
    scaling = np.full(1 << 11, -1)
    power = 0
    for exponent in range(_NUM_WRITTEN * 3, -1023, -1):
        least = fractions.Fraction(2) ** exponent
        while least * 10**power < _LEAST_SCALED:
            power += 1
        if power > _MOST_SCALING:
            break
        scaling[exponent + 1023] = power
    return scaling


_SCALING = _scaling()
_LARGE_POWERS = np.array([10.0 ** min(power, MOST_EXACT_EXPONENT) for power in range(_MOST_SCALING + 1)])
_SMALL_POWERS = np.array([10.0 ** max(power - MOST_EXACT_EXPONENT, 0) for power in range(_MOST_SCALING + 1)])
_PAIRS = np.frombuffer("".join(f"{number:02d}" for number in range(100)).encode(), np.uint8)


@compiled
def _leading_digits(value: float) -> tuple[int, int]:
    """Returns (six digits of a number above 0, correctly rounded, the exponent of the first), else (-1, 0).

    Products with exact powers of ten round by less than _DOUBT; where the digits behind are so near to a half, nothing
    is decided. A product on the wrong side of a power of ten is rounded to that power from either side.
    """
    power = _SCALING[(np.float64(value).view(np.int64) >> 52) & 0x7FF]
    if power < 0:
        return -1, 0
    scaled = value * _LARGE_POWERS[power] * _SMALL_POWERS[power]
    if scaled >= _MOST_SCALED:
        power -= 1
        if power < 0:
            return -1, 0
        scaled = value * _LARGE_POWERS[power] * _SMALL_POWERS[power]
    digits = int(scaled)
    remainder = scaled - digits
    if abs(remainder - 0.5) < _DOUBT:
        return -1, 0
    digits += remainder > 0.5
    if digits == _MOST_SCALED:
        return _LEAST_SCALED, _NUM_WRITTEN - power
    return digits, _NUM_WRITTEN - 1 - power


@inlined
def _write_pair(number: int, text: np.ndarray, position: int) -> None:
    """Writes a number below 100 as two digits."""
    place, source = np.uint64(position), np.uint64(2 * number)
    text[place], text[place + _ONE] = _PAIRS[source], _PAIRS[source + _ONE]


@inlined
def write_integer(value: int, text: np.ndarray, position: int) -> int:
    """Writes a number from 0 on; returns the position behind it."""
    if value < 10:
        text[np.uint64(position)] = _ZERO + value
        return position + 1
    if value < 100:
        _write_pair(value, text, position)
        return position + 2
    if value < 1000:
        text[np.uint64(position)] = _ZERO + value // 100
        _write_pair(value % 100, text, position + 1)
        return position + 3
    if value < 10_000:
        _write_pair(value // 100, text, position)
        _write_pair(value % 100, text, position + 2)
        return position + 4
    behind, left = position, value
    while left:
        behind += 1
        left //= 10
    for place in range(behind - 1, position - 1, -1):
        text[place] = _ZERO + value % 10
        value //= 10
    return behind


@compiled
def _write_exponent(exponent: int, text: np.ndarray, position: int) -> int:
    text[position] = _E
    text[position + 1] = _MINUS if exponent < 0 else _PLUS
    if abs(exponent) < 100:
        _write_pair(abs(exponent), text, position + 2)
        return position + 4
    return write_integer(abs(exponent), text, position + 2)


@inlined
def write_general(value: float, text: np.ndarray, position: int) -> int:
    """Writes a number as "%g" does; returns the position behind it, or UNDECIDED, as for any below 0.

    Args:
        value: The number.
        text: uint8 with MOST_WRITTEN_BYTES of room from `position` on.
        position: Where it begins.
    """
    if not 0.0 < value < np.inf:
        if value == 0.0 and math.copysign(1.0, value) > 0:
            text[position] = _ZERO
            return position + 1
        return UNDECIDED
    digits, exponent = _leading_digits(value)
    if digits < 0:
        return UNDECIDED
    is_fraction = _LEAST_FIXED_EXPONENT <= exponent < 0
    is_fixed = is_fraction or 0 <= exponent < _NUM_WRITTEN
    # The digits, all behind the point; where some belong before it, they go there afterwards.
    first = position + 1
    if is_fraction:
        text[np.uint64(position)], text[np.uint64(position + 1)] = _ZERO, _POINT
        for place in range(position + 2, position + 1 - exponent):
            text[np.uint64(place)] = _ZERO
        first = position + 1 - exponent
    _write_pair(digits // 10_000, text, first)
    _write_pair(digits // 100 % 100, text, first + 2)
    _write_pair(digits % 100, text, first + 4)
    if not is_fraction:
        num_before = exponent + 1 if is_fixed else 1
        for place in range(position, position + num_before):
            text[place] = text[place + 1]
        text[position + num_before] = _POINT
    behind = first + _NUM_WRITTEN
    while text[np.uint64(behind - 1)] == _ZERO:
        behind -= 1
    if text[np.uint64(behind - 1)] == _POINT:
        behind -= 1
    return behind if is_fixed else _write_exponent(exponent, text, behind)
