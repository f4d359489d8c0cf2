"""The means of what several files say of a video: compiled, over aligned blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from yt8m_ray.compiled import borrowing, inlined
from yt8m_ray.inference.predictions.align_files import AlignedBlock
from yt8m_ray.inference.predictions.rows import MOST_CLASSES, PredictionRows

Mean = Literal["arithmetic", "geometric"]

GEOMETRIC_FLOOR = 1e-4
"""Least score in a geometric mean, and what a class that a file does not list counts there."""

_ONE = np.uint64(1)


class Mixer:
    """Weighted means of K files, reduced to the `top_k` best classes of each video.

    The arithmetic mean of a class is the sum of `weight * score`, file by file, a class that a file does not list
    counting 0. The geometric mean is the product of `max(floor, score) ** weight`, a class that a file does not list
    counting the floor. For a video that files lack, the weights of the others are divided by their sum. Of equal means
    the lower class id comes first.

    Args:
        weights: One a file, with the sum 1.
        mean: Which.
        top_k: Most classes of a video.
    """

    def __init__(self, weights: Sequence[float], *, mean: Mean = "arithmetic", top_k: int = 20) -> None:
        self._weights = np.array(weights)
        self._floor = GEOMETRIC_FLOOR if mean == "geometric" else 0.0
        self._top_k = top_k
        self._places = np.full(MOST_CLASSES, -1, np.int32)
        self._found = np.empty(0, np.int32), np.empty(0, np.float64)

    def mix(self, block: AlignedBlock) -> PredictionRows:
        """Returns the means of a block, in its order; the ids hold as long as the block."""
        rows = block.rows
        class_ids = np.empty(len(block) * self._top_k, np.int32)
        scores = np.empty(len(block) * self._top_k)
        bounds = np.zeros(len(block) + 1, np.int64)
        if len(self._found[0]) < len(rows.class_ids):
            room = 2 * len(rows.class_ids)
            self._found = np.empty(room, np.int32), np.empty(room, np.float64)
        _mix(
            (rows.class_ids, rows.scores, rows.bounds),
            block.places,
            self._weights,
            self._floor,
            self._top_k,
            self._places,
            self._found,
            (class_ids, scores, bounds),
        )
        id_bounds = rows.id_bounds[: len(block) + 1]
        return PredictionRows(rows.id_bytes, id_bounds, class_ids[: bounds[-1]], scores[: bounds[-1]], bounds)


def normalized(weights: Sequence[float]) -> list[float]:
    """Returns the weights divided by their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


@inlined
def _weight_of_present(places: np.ndarray, weights: np.ndarray, video: int) -> float:
    """Returns what the weights are to be divided by: 1 where no file lacks the video, else the sum of the others."""
    total, is_complete = 0.0, True
    for file in range(len(weights)):
        if places[file, video] >= 0:
            total += weights[file]
        else:
            is_complete = False
    return 1.0 if is_complete else total


@inlined
def _add_file(
    rows: Any,
    row: int,
    weight: float,
    floor: float,
    places: np.ndarray,
    found: Any,
    num_found: int,
) -> int:
    """Adds a file's weighted scores, or logarithms above the floor's, to those found before; returns their number."""
    class_ids, scores, bounds = rows
    found_ids, found_sums = found
    for pair in range(bounds[row], bounds[row + 1]):
        class_id, value = np.uint64(class_ids[np.uint64(pair)]), scores[np.uint64(pair)]
        if floor > 0:
            value = math.log(max(value, floor) / floor)
        place = places[class_id]
        if place < 0:
            places[class_id] = num_found
            found_ids[np.uint64(num_found)], found_sums[np.uint64(num_found)] = class_id, weight * value
            num_found += 1
        else:
            found_sums[np.uint64(place)] += weight * value
    return num_found


@inlined
def _is_before(score: float, class_id: int, other_score: float, other_id: int) -> bool:
    return score > other_score or (score == other_score and class_id < other_id)


@inlined
def _keep_best(found: Any, num_found: int, top_k: int, result: Any, first: int) -> Any:
    """Writes the best classes to `result` from `first` on, best first; returns the place behind them."""
    found_ids, found_sums = found
    class_ids, scores, _ = result
    last = start = np.uint64(first)  # unsigned, so that no index is tested for being negative
    for index in range(num_found):
        class_id, score = found_ids[np.uint64(index)], found_sums[np.uint64(index)]
        if last - start < np.uint64(top_k):
            last += _ONE
        elif not _is_before(score, class_id, scores[last - _ONE], class_ids[last - _ONE]):
            continue
        place = last - _ONE
        while place > start and _is_before(score, class_id, scores[place - _ONE], class_ids[place - _ONE]):
            scores[place], class_ids[place] = scores[place - _ONE], class_ids[place - _ONE]
            place -= _ONE
        scores[place], class_ids[place] = score, class_id
    return np.int64(last)


@borrowing
def _mix(
    rows: Any,
    files: np.ndarray,
    weights: np.ndarray,
    floor: float,
    top_k: int,
    places: np.ndarray,
    found: Any,
    result: Any,
) -> None:
    """Fills in the means.

    Args:
        rows: Class ids, scores and bounds of all rows.
        files: int64 [K, N], the rows of each video.
        weights: float64 [K].
        floor: Of a geometric mean, 0 for an arithmetic one.
        top_k: Most classes of a video.
        places: int32 [classes], all -1, as they are again afterwards.
        found: Room for the class ids and sums of a video, as many as there are pairs.
        result: Class ids and scores with room for N * top_k, and bounds.
    """
    for video in range(files.shape[1]):
        divisor = _weight_of_present(files, weights, video)
        num_found = 0
        for file in range(len(weights)):
            if files[file, video] >= 0:
                weight = weights[file] / divisor
                num_found = _add_file(rows, files[file, video], weight, floor, places, found, num_found)
        for index in range(num_found):
            places[found[0][index]] = -1
            if floor > 0:
                found[1][index] = floor * math.exp(found[1][index])
        result[2][video + 1] = _keep_best(found, num_found, top_k, result, result[2][video])
