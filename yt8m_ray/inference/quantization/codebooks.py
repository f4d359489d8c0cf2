"""Codebooks: 256 values that stand for all weights of a tensor, and a code for each weight (the 2018 winner's form)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from yt8m_ray.compiled import compiled

Array = npt.NDArray[Any]
# How the values are chosen, by the published names.
CodebookName = Literal["uniform", "quantile", "kmeans"]

NUM_CODES = 256

# Cells that the exact search chooses its borders among; Lloyd's steps then move them freely.
_NUM_CELLS = 8192
_MAX_STEPS = 200


def codebook(weights: Array, name: CodebookName) -> tuple[Array, Array]:
    """Returns (codes uint8, shaped as `weights`; values float32 [256], ascending) of a tensor of finite weights."""
    flat = np.ascontiguousarray(weights, dtype=np.float32).reshape(-1)
    values = _VALUES[name](flat)
    codes = np.empty(flat.shape, np.uint8)
    _find_nearest(flat, values, (values[:-1] + values[1:]) / 2, codes)
    return codes.reshape(weights.shape), values.astype(np.float32)


def uniform_values(weights: Array) -> Array:
    """Returns float64 [256], evenly spaced from the smallest weight to the largest."""
    return np.linspace(float(weights.min()), float(weights.max()), NUM_CODES)


def quantile_values(weights: Array) -> Array:
    """Returns the quantiles at 0, 1/255, ..., 1, float64 [256], to the bit those of pandas; some may be equal."""
    values: Array = np.quantile(weights, np.linspace(0, 1, NUM_CODES))
    return values


def kmeans_values(weights: Array) -> Array:
    """Returns the values, float64 [256], ascending, with the least sum of squared distances to the weights."""
    # On a line, clusters are intervals of the sorted weights: the best borders among those of 8,192 cells are found
    # exactly, and Lloyd's steps, each two binary searches a value, move them to a local optimum. Begun from the borders
    # of 256 such cells, the steps end with 1.01 to 1.9 times the error. Sorting takes most of the time.
    ordered = np.sort(weights)
    sums = np.zeros(len(ordered) + 1)
    np.cumsum(ordered, dtype=np.float64, out=sums[1:])
    borders = _best_borders(ordered, sums)
    for _ in range(_MAX_STEPS):
        values = np.diff(sums[borders]) / np.diff(borders)
        middles = ((values[:-1] + values[1:]) / 2).astype(np.float32)
        moved = np.concatenate([[0], np.searchsorted(ordered, middles, side="right"), [len(ordered)]])
        # Without the intervals that lost all their weights.
        moved = moved[np.concatenate([[True], np.diff(moved) > 0])]
        if np.array_equal(moved, borders):
            break
        borders = moved
    values = np.diff(sums[borders]) / np.diff(borders)
    # Of fewer than 256 different weights each is a value, and the largest is repeated.
    return np.concatenate([values, np.repeat(values[-1:], NUM_CODES - len(values))])


_VALUES = {"uniform": uniform_values, "quantile": quantile_values, "kmeans": kmeans_values}


def _best_borders(ordered: Array, sums: Array) -> Array:
    """Returns the borders [n + 1], n <= 256, of the intervals of cells with the least squared error."""
    edges = _cells(ordered)
    # Squares of centred values cancel less.
    centre = sums[-1] / len(ordered)
    masses = np.diff(edges).astype(np.float64)
    firsts = np.diff(sums[edges]) - masses * centre
    seconds = _squares(ordered, edges, float(centre))
    # Sums up to each cell: the moments of an interval are differences of two.
    masses_to, firsts_to, seconds_to = (np.concatenate([[0.0], np.cumsum(part)]) for part in (masses, firsts, seconds))
    borders: Array = edges[_split(masses_to, firsts_to, seconds_to, min(NUM_CODES, len(masses)))]
    return borders


@compiled
def _cells(ordered: Array) -> Array:
    """Returns the borders of at most 8,192 cells of sorted weights, each between two different weights."""
    # The best values have the density of the weights to the power 1/3 (Panter and Dite 1951), and so do the borders: a
    # gap between neighbours adds its length to the power 2/3, and there is one border for each share of the sum.
    total = 0.0
    for index in range(1, len(ordered)):
        total += np.cbrt((np.float64(ordered[index]) - np.float64(ordered[index - 1])) ** 2)
    edges = np.zeros(_NUM_CELLS + 1, np.int64)
    count, passed, shares = 1, 0.0, 0
    for index in range(1, len(ordered)):
        gap = np.float64(ordered[index]) - np.float64(ordered[index - 1])
        passed += np.cbrt(gap**2)
        if gap > 0 and passed * _NUM_CELLS >= total * (shares + 1) and count < _NUM_CELLS:
            edges[count] = index
            count += 1
            shares = int(passed * _NUM_CELLS / total)
    edges[count] = len(ordered)
    return edges[: count + 1]


@compiled
def _squares(ordered: Array, edges: Array, centre: float) -> Array:
    # Compiled to save memory: NumPy would make a copy of all weights.
    sums = np.zeros(len(edges) - 1)
    for cell in range(len(sums)):
        for index in range(edges[cell], edges[cell + 1]):
            sums[cell] += (np.float64(ordered[index]) - centre) ** 2
    return sums


@compiled
def _interval_error(first: int, last: int, masses: Array, firsts: Array, seconds: Array) -> float:
    """Returns the squared error of the cells `first` to `last`, exclusive, around their mean."""
    mass = masses[last] - masses[first]
    total = firsts[last] - firsts[first]
    return float(max(seconds[last] - seconds[first] - total * total / mass, 0.0))


@compiled
def _split(masses: Array, firsts: Array, seconds: Array, num_intervals: int) -> Array:
    """Returns the borders, as indices into the tables, of the best `num_intervals` intervals of the cells."""
    # Dynamic programming by divide and conquer: the best last border of a prefix moves right with the prefix.
    num_cells = len(masses) - 1
    errors = np.empty(num_cells + 1)
    errors[0] = 0.0
    for end in range(1, num_cells + 1):
        errors[end] = _interval_error(0, end, masses, firsts, seconds)
    starts = np.zeros((num_intervals, num_cells + 1), np.int32)
    stack = np.empty((64, 4), np.int64)
    for count in range(1, num_intervals):
        fewer = errors.copy()
        stack[0] = (count + 1, num_cells, count, num_cells - 1)
        depth = 1
        while depth:
            depth -= 1
            low, high, first, last = stack[depth]
            middle = (low + high) // 2
            best, best_start = np.inf, first
            for start in range(first, min(last, middle - 1) + 1):
                error = fewer[start] + _interval_error(start, middle, masses, firsts, seconds)
                if error < best:
                    best, best_start = error, start
            errors[middle], starts[count, middle] = best, best_start
            if low < middle:
                stack[depth] = (low, middle - 1, first, best_start)
                depth += 1
            if middle < high:
                stack[depth] = (middle + 1, high, best_start, last)
                depth += 1
    borders = np.empty(num_intervals + 1, np.int64)
    borders[num_intervals] = num_cells
    for count in range(num_intervals - 1, -1, -1):
        borders[count] = starts[count, borders[count + 1]]
    return borders


@compiled
def _find_nearest(weights: Array, values: Array, middles: Array, codes: Array) -> None:
    # The nearest value in float64, and the lower code where two are as near, as in the published vector quantization.
    for index in range(len(weights)):
        weight = np.float64(weights[index])
        # The rounded middle is right nearly always, but the distances decide.
        code = np.searchsorted(middles, weight)
        distance = (weight - values[code]) ** 2
        if code > 0 and (weight - values[code - 1]) ** 2 <= distance:
            code -= 1
        elif code < len(middles) and (weight - values[code + 1]) ** 2 < distance:
            code += 1
        codes[index] = code
