"""Doubles -> the bytes of `"%g"`, exact, compiled into the loops that call it.

It decides the inputs whose result it can prove, which are nearly all, and leaves the others to Python. Does not live
here: the way back (`yt8m_ray.inference.predictions.decimals`).
"""

from __future__ import annotations

import fractions
import math
from typing import Any

import numpy as np

from yt8m_ray.compiled import compiled, inlined, store_word
from yt8m_ray.inference.predictions.decimals import MOST_EXACT_EXPONENT, UNDECIDED, full_product

MOST_WRITTEN_BYTES = 16
"""Room that a number needs: 13 bytes such as 1.23456e-105, and what is stored with them, eight bytes at a time."""

_NUM_WRITTEN = 6
"""Significant digits of "%g"."""

_LEAST_SCALED, _MOST_SCALED = 10 ** (_NUM_WRITTEN - 1), 10**_NUM_WRITTEN
_LEAST_FIXED_EXPONENT = -4

_MOST_SCALING = 2 * MOST_EXACT_EXPONENT
"""10**44 takes a number of 1e-38, the least that a float32 holds in full, to six digits."""

_DOUBT = 1e-9
"""Beyond the rounding error of a number below 10**6, the product with two exact powers of ten: 2**-32."""

_ZERO, _POINT, _PLUS, _MINUS, _E = b"0.+-e"
_ZERO_POINT = np.uint64(int.from_bytes(b"0.000000", "little"))
_MANTISSA_BITS, _WORD = np.uint64((1 << 52) - 1), np.uint64(64)
_ONE, _THOUSAND, _MILLION = np.uint64(1), np.uint64(1000), np.uint64(1_000_000)


def _scaling() -> tuple[np.ndarray, np.ndarray]:
    """Returns how doubles become six digits before the point, by the 11 bits of their exponent.

    Returns:
        int64 [2048], the power of ten that takes 2**e, the least of them, there; -1 where there is none that can;
        float64 [2048], the power of ten from which on the power to take is one less.
    """
    powers, limits = np.full(1 << 11, -1), np.full(1 << 11, np.inf)
    power = 0
    for exponent in range(_NUM_WRITTEN * 3 - 1, -1023, -1):
        least = fractions.Fraction(2) ** exponent
        while least * 10**power < _LEAST_SCALED:
            power += 1
        if power > _MOST_SCALING:
            break
        powers[exponent + 1023] = power
        limits[exponent + 1023] = float(f"1e{_NUM_WRITTEN - power}")
    return powers, limits


_SCALING, _SCALING_LIMITS = _scaling()
_LARGE_POWERS = np.array([10.0 ** min(power, MOST_EXACT_EXPONENT) for power in range(_MOST_SCALING + 1)])
_SMALL_POWERS = np.array([10.0 ** max(power - MOST_EXACT_EXPONENT, 0) for power in range(_MOST_SCALING + 1)])
_POWERS_OF_FIVE = np.array([5**power for power in range(MOST_EXACT_EXPONENT + 1)], np.uint64)
_TRIPLES = np.array([int.from_bytes(b"%03d" % number, "little") for number in range(1000)], np.uint64)
_NUM_SIGNIFICANT = np.array([len((b"%03d" % number).rstrip(b"0")) for number in range(1000)])


@compiled
def _rounds_up(value: float, power: int, digits: int) -> Any:
    """Returns whether `value * 10**power` is above the middle of `digits` and the next, or is it and `digits` is odd.

    Exact: the product of the 53 bits of the double with 5**power is compared in full. The mean of two numbers of six
    digits is such a middle half of the time.
    """
    bits = np.float64(value).view(np.uint64)
    mantissa = (bits & _MANTISSA_BITS) | (_MANTISSA_BITS + _ONE)
    num_behind = np.uint64(1075 - 1 - power) - (bits >> np.uint64(52))  # bits of the product behind halves
    high, low = full_product(mantissa, _POWERS_OF_FIVE[power])
    halves = np.uint64(2 * digits + 1)
    if num_behind < _WORD:
        middle_high, middle_low = halves >> (_WORD - num_behind), halves << num_behind
    else:
        middle_high, middle_low = halves << (num_behind - _WORD), np.uint64(0)
    if high == middle_high and low == middle_low:
        return digits % 2 == 1
    return high > middle_high or (high == middle_high and low > middle_low)


@inlined
def _leading_digits(value: float) -> tuple[int, int]:
    """Returns (six digits of a number above 0, correctly rounded, the exponent of the first), else (-1, 0).

    Products with exact powers of ten round by less than _DOUBT; where the digits behind are so near to a half, the
    exact product decides, if one power is enough for it. A product on the wrong side of a power of ten is rounded to
    that power from either side.
    """
    binary_exponent = (np.float64(value).view(np.uint64) >> np.uint64(52)) & np.uint64(0x7FF)
    power = _SCALING[binary_exponent]
    if power < 0:
        return -1, 0
    power -= value >= _SCALING_LIMITS[binary_exponent]
    scaled = value * _LARGE_POWERS[np.uint64(power)] * _SMALL_POWERS[np.uint64(power)]
    digits = int(scaled)
    remainder = scaled - digits
    if abs(remainder - 0.5) >= _DOUBT:
        digits += remainder > 0.5
    elif power <= MOST_EXACT_EXPONENT:
        digits += _rounds_up(value, power, digits)
    else:
        return -1, 0
    if digits == _MOST_SCALED:
        return _LEAST_SCALED, _NUM_WRITTEN - power
    return digits, _NUM_WRITTEN - 1 - power


@inlined
def _six_digits(number: np.uint64) -> Any:
    """Returns the text of a number below 10**6, zeros in front, as a word with the first digit lowest."""
    high = number // _THOUSAND
    return _TRIPLES[high] | _TRIPLES[number - high * _THOUSAND] << np.uint64(24)


@inlined
def _count_significant(number: np.uint64) -> Any:
    """Returns how many of six digits are left without the zeros behind."""
    high = number // _THOUSAND
    low = number - high * _THOUSAND
    return _NUM_SIGNIFICANT[low] + 3 if low else _NUM_SIGNIFICANT[high]


@inlined
def write_integer(value: int, text: np.ndarray, position: int) -> int:
    """Writes a number of up to seven digits, with room for nine bytes; returns the position behind it."""
    number = np.uint64(value)
    if number >= _MILLION:
        text[np.uint64(position)] = np.uint8(np.uint64(_ZERO) + number // _MILLION)
        store_word(text, position + 1, _six_digits(number % _MILLION))
        return position + 7
    num_digits = 1 + (value >= 10) + (value >= 100) + (value >= 1000) + (value >= 10_000) + (value >= 100_000)
    store_word(text, position, _six_digits(number) >> np.uint64(8 * (6 - num_digits)))
    return position + num_digits


@inlined
def _write_exponent(exponent: int, text: np.ndarray, position: int) -> int:
    digits, num_digits = _TRIPLES[np.uint64(abs(exponent))], 3
    if abs(exponent) < 100:
        digits >>= np.uint64(8)
        num_digits = 2
    sign = np.uint64(_MINUS if exponent < 0 else _PLUS)
    store_word(text, position, np.uint64(_E) | sign << np.uint64(8) | digits << np.uint64(16))
    return position + 2 + num_digits


@inlined
def write_general(value: float, text: np.ndarray, position: int) -> int:
    """Writes a number as "%g" does; returns the position behind it, or UNDECIDED, as for any below 0.

    Args:
        value: The number.
        text: uint8 with MOST_WRITTEN_BYTES of room from `position` on, of which any may be written to.
        position: Where it begins.
    """
    if not 0.0 < value < np.inf:
        if value == 0.0 and math.copysign(1.0, value) > 0:
            text[np.uint64(position)] = _ZERO
            return position + 1
        return UNDECIDED
    digits, exponent = _leading_digits(value)
    if digits < 0:
        return UNDECIDED
    word = _six_digits(np.uint64(digits))
    num_significant: int = _count_significant(np.uint64(digits))
    if _LEAST_FIXED_EXPONENT <= exponent < 0:
        first = position + 1 - exponent
        store_word(text, position, _ZERO_POINT)
        store_word(text, first, word)
        return first + num_significant
    is_fixed = 0 <= exponent < _NUM_WRITTEN
    num_before = exponent + 1 if is_fixed else 1
    before = (_ONE << np.uint64(8 * num_before)) - _ONE
    point = np.uint64(_POINT) << np.uint64(8 * num_before)
    store_word(text, position, (word & before) | point | (word & ~before) << np.uint64(8))
    behind = position + (num_before if num_significant <= num_before else num_significant + 1)
    return behind if is_fixed else _write_exponent(exponent, text, behind)
