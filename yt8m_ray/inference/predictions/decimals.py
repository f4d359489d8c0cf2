"""Decimal digits -> the double that `float()` gives, to the last bit, compiled into the loops that call it.

It decides the inputs whose result it can prove, which are nearly all, and leaves the others to Python.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from yt8m_ray.compiled import compiled, count_trailing_zeros, inlined, load_word

UNDECIDED = -1
"""In place of a position: Python has to look."""

_ORDINARY_BYTES = 27
"""That `_read_ordinary` may look at, from the beginning of a number on."""

_MOST_DIGITS = 18  # so that they fit 63 bits
_MOST_READ = 32
_INTEGER_POWERS = 10 ** np.arange(9)
_MOST_EXACT = 1 << 53
_MOST_EXACT_DIGITS = 15
MOST_EXACT_EXPONENT = 22
"""10**22 is the largest power of ten that is a double."""

_MOST_EXPONENT = 64
"""Powers beyond are left to Python; within, no number is subnormal or infinite."""

_POWERS_OF_TEN = np.array([10.0**exponent for exponent in range(MOST_EXACT_EXPONENT + 1)])

_LOW_WORD = np.uint64((1 << 32) - 1)
_WORD_BITS = np.uint64(32)
_ONE, _NO_BIT, _ALL_BITS = np.uint64(1), np.uint64(0), np.uint64((1 << 64) - 1)
_TOP_BIT = np.uint64(1 << 63)

_ZERO, _NINE, _POINT, _PLUS, _MINUS, _E = b"09.+-e"


def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Returns 10**q for q from -_MOST_EXPONENT on, as 128 bits, cut off behind, and their place.

    Returns:
        uint64 [Q, 2], the high and the low word, the highest bit set; int64 [Q], the exponent of 2 of the lowest bit.
    """
    words, places = np.empty((2 * _MOST_EXPONENT + 1, 2), np.uint64), np.empty(2 * _MOST_EXPONENT + 1, np.int64)
    for row, exponent in enumerate(range(-_MOST_EXPONENT, _MOST_EXPONENT + 1)):
        power = 5 ** abs(exponent)
        num_bits = power.bit_length()
        bits = (power << 128) >> num_bits if exponent >= 0 else (1 << (num_bits + 127)) // power
        words[row] = bits >> 64, bits & ((1 << 64) - 1)
        places[row] = exponent + (num_bits - 128 if exponent >= 0 else -num_bits - 127)
    return words, places


_POWER_WORDS, _POWER_PLACES = _powers()


@compiled
def full_product(left: np.uint64, right: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Returns the 128 bits of a product, the high and the low word."""
    left_high, left_low = left >> _WORD_BITS, left & _LOW_WORD
    right_high, right_low = right >> _WORD_BITS, right & _LOW_WORD
    low = left_low * right_low
    middle = left_high * right_low + (low >> _WORD_BITS)
    other = left_low * right_high + (middle & _LOW_WORD)
    high = left_high * right_high + (middle >> _WORD_BITS) + (other >> _WORD_BITS)
    return high, (other << _WORD_BITS) | (low & _LOW_WORD)


@compiled
def _scaled(mantissa: int, exponent: int) -> float:
    """Returns the double nearest to `mantissa * 10**exponent`, else -1.0; the mantissa is above 0, below 2**63.

    The power P is cut off, so that the product with the normalized mantissa w lies between w * P and w * (P + 1), and
    of its 192 bits the lowest 64 say nothing: the true value is less than 2 above what the upper 128 say, in units of
    their last. Undecided is a remainder from which that reaches half of the double's last place, or that is it.
    """
    normalized, num_shifted = np.uint64(mantissa), 0
    while normalized & _TOP_BIT == _NO_BIT:
        normalized <<= _ONE
        num_shifted += 1
    row = exponent + _MOST_EXPONENT
    high, middle = full_product(normalized, _POWER_WORDS[row, 0])
    carried = middle + full_product(normalized, _POWER_WORDS[row, 1])[0]
    if carried < middle:
        high += _ONE
    num_cut = np.uint64(11 if high & _TOP_BIT != _NO_BIT else 10)
    half = _ONE << (num_cut - _ONE)
    remainder = high & ((half << _ONE) - _ONE)
    if (remainder == half and carried == _NO_BIT) or (remainder == half - _ONE and carried == _ALL_BITS):
        return -1.0
    kept = high >> num_cut
    if remainder >= half:
        kept += _ONE
    return math.ldexp(float(kept), 128 + int(num_cut) + _POWER_PLACES[row] - num_shifted)


@inlined
def _value(mantissa: int, exponent: int) -> float:
    """Returns the double nearest to `mantissa * 10**exponent`, else -1.0."""
    if mantissa == 0:
        return 0.0
    if mantissa <= _MOST_EXACT and -MOST_EXACT_EXPONENT <= exponent <= MOST_EXACT_EXPONENT:
        # Both are exact, so that the one division or product rounds once.
        if exponent < 0:
            return float(mantissa / _POWERS_OF_TEN[np.uint64(-exponent)])
        return float(mantissa * _POWERS_OF_TEN[np.uint64(exponent)])
    if exponent < -_MOST_EXPONENT or exponent > _MOST_EXPONENT:
        return -1.0
    return _scaled(mantissa, exponent)


@inlined
def _read_last_digits(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """Does what `read_digits` does, a byte at a time, where there are not eight."""
    number = count = 0
    while position + count < end and _ZERO <= data[position + count] <= _NINE:
        number = number * 10 + int(data[position + count]) - _ZERO
        count += 1
    return number, count


@inlined
def _eight_digits(text: np.uint64) -> tuple[Any, Any]:
    """Returns (the number that the digits at the beginning of eight bytes make, how many they are), without a branch.

    All bytes are looked at together: one that is no digit gets its highest bit in `others`, and what it may carry goes
    to bytes behind it, which do not matter. The digits are then added up in pairs, fours and eights.
    """
    word = text ^ np.uint64(0x3030303030303030)
    others = ((word + np.uint64(0x7676767676767676)) | word) & np.uint64(0x8080808080808080)
    num_bits = count_trailing_zeros(others) & ~np.uint64(7)
    half = np.uint64(32) - (num_bits >> _ONE)  # no shift by 64, whose result is undefined
    word = word << half << half  # as if there were zeros in front
    word = word * np.uint64(10) + (word >> np.uint64(8))
    word = ((word & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(1 + (100 << 16))) >> np.uint64(16)
    word = ((word & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(1 + (10_000 << 32))) >> np.uint64(32)
    return np.int64(word & _LOW_WORD), np.int64(num_bits >> np.uint64(3))


@inlined
def read_digits(data: np.ndarray, position: int, end: int) -> tuple[Any, Any]:
    """Returns (the number that up to eight digits at `position` make, how many they are)."""
    if position + 8 > end:
        return _read_last_digits(data, position, end)
    return _eight_digits(load_word(data, position))


@inlined
def _read_ordinary(data: np.ndarray, position: int) -> tuple[float, int]:
    """Does what `read_decimal` does for numbers such as 0.0123456 and 1.23456e-05.

    That is a digit, a point, digits, and perhaps a negative exponent of two digits. The mantissa and the power of ten
    are exact, so that the one division rounds once.
    """
    leading = int(data[np.uint64(position)]) - _ZERO
    if leading < 0 or leading > 9 or data[np.uint64(position + 1)] != _POINT:
        return 0.0, UNDECIDED
    mantissa, count = _eight_digits(load_word(data, position + 2))
    mantissa += leading * _INTEGER_POWERS[np.uint64(count)]
    behind = position + 2 + count
    if count == 8 and _ZERO <= data[np.uint64(behind)] <= _NINE:
        more, num_more = _eight_digits(load_word(data, behind))
        if num_more > _MOST_EXACT_DIGITS - 9:
            return 0.0, UNDECIDED
        mantissa = mantissa * _INTEGER_POWERS[np.uint64(num_more)] + more
        behind += num_more
        count += num_more
    if count == 0:
        return 0.0, UNDECIDED
    if int(data[np.uint64(behind)]) | 0x20 == _E:
        exponent, num_digits = _eight_digits(load_word(data, behind + 2))
        count += exponent
        if data[np.uint64(behind + 1)] != _MINUS or num_digits != 2 or count > MOST_EXACT_EXPONENT:
            return 0.0, UNDECIDED
        behind += 4
    return mantissa / _POWERS_OF_TEN[np.uint64(count)], behind


@compiled
def _has_too_many_digits(data: np.ndarray, start: int, end: int) -> bool:
    """Returns whether the digits of `data[start:end]`, without zeros in front, are more than fit 63 bits."""
    num_digits = 0
    for position in range(start, end):
        if data[position] != _POINT and (num_digits or data[position] != _ZERO):
            num_digits += 1
    return num_digits > _MOST_DIGITS


@compiled
def _read_exponent(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """Returns (the integer behind an `e`, at most three digits, the position behind it), or UNDECIDED for that."""
    is_negative = position < end and data[position] == _MINUS
    if is_negative or (position < end and data[position] == _PLUS):
        position += 1
    start, exponent = position, 0
    while position < end:
        digit = int(data[position]) - _ZERO
        if digit < 0 or digit > 9:
            break
        exponent = exponent * 10 + digit
        position += 1
        if position - start > 3:
            return 0, UNDECIDED
    return (-exponent if is_negative else exponent), (position if position > start else UNDECIDED)


@inlined
def read_decimal(data: np.ndarray, position: int, end: int) -> tuple[float, int]:
    """Returns what `float()` makes of the number at `position`, and the position behind it.

    A number is digits, perhaps with a point among them, perhaps an exponent; it ends where none of these can follow.

    Args:
        data: uint8 [N].
        position: Its first byte.
        end: The byte behind the last that may belong to it.

    Returns:
        (the double, the position behind), or UNDECIDED for the latter where it is not such a number, or is not proved.
    """
    if position + _ORDINARY_BYTES <= end:
        ordinary, behind = _read_ordinary(data, position)
        if behind != UNDECIDED:
            return ordinary, behind
    start, mantissa, exponent, count = position, 0, 0, 0
    while position < end and _ZERO <= data[np.uint64(position)] <= _NINE:
        mantissa = mantissa * 10 + (int(data[np.uint64(position)]) - _ZERO)
        position += 1
    num_digits = position - start
    if position < end and data[np.uint64(position)] == _POINT:
        position += 1
        behind_point = position
        count = 8
        while count == 8 and position - start < _MOST_READ:
            more, count = read_digits(data, position, end)
            mantissa = mantissa * _INTEGER_POWERS[np.uint64(count)] + more
            position += count
        exponent = behind_point - position
        num_digits -= exponent
    if num_digits == 0 or count == 8 or (num_digits > _MOST_DIGITS and _has_too_many_digits(data, start, position)):
        return 0.0, UNDECIDED
    if position < end and int(data[np.uint64(position)]) | 0x20 == _E:
        more, position = _read_exponent(data, position + 1, end)
        exponent += more
        if position == UNDECIDED:
            return 0.0, UNDECIDED
    value = _value(mantissa, exponent)
    return value, (position if value >= 0 else UNDECIDED)
