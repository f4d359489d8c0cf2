"""Predictions of many videos end to end, as they travel from files through a merge into a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yt8m_ray.compiled import compiled

MOST_CLASSES = 1 << 20
"""Class ids are below: far beyond any vocabulary, and few enough for arrays with an entry a class."""


class RowError(ValueError):
    """A row cannot be what it should; the message says why, and its reader adds where."""


@dataclass(frozen=True)
class PredictionRows:
    """Classes and scores of N videos.

    Attributes:
        id_bytes: uint8 [bytes of all ids], UTF-8.
        id_bounds: int64 [N + 1], where each id begins in `id_bytes`, and where the last one ends.
        class_ids: int32 [pairs].
        scores: float64 [pairs]; arbitrary where the rows are labels.
        bounds: int64 [N + 1], where the pairs of each video begin, and where the last ones end.
    """

    id_bytes: np.ndarray
    id_bounds: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def video_id(self, row: int) -> str:
        """Returns a video's id."""
        return self.id_bytes[self.id_bounds[row] : self.id_bounds[row + 1]].tobytes().decode()


class RowBuffer:
    """Room for rows, which grows as they come and is used again.

    Attributes:
        num_rows: Rows in it.
        id_bytes, id_bounds, class_ids, scores, bounds: As in `PredictionRows`, with room behind the rows.
    """

    def __init__(self, num_rows: int = 1024, num_pairs: int = 1 << 15) -> None:
        self.id_bytes = np.empty(16 * num_rows, np.uint8)
        self.id_bounds = np.zeros(num_rows + 1, np.int64)
        self.class_ids = np.empty(num_pairs, np.int32)
        self.scores = np.empty(num_pairs, np.float64)
        self.bounds = np.zeros(num_rows + 1, np.int64)
        self.num_rows = 0

    def clear(self) -> None:
        """Forgets the rows."""
        self.num_rows = 0

    def rows(self) -> PredictionRows:
        """Returns the rows, as views that hold until the buffer is cleared."""
        num_bytes, num_pairs = self.id_bounds[self.num_rows], self.bounds[self.num_rows]
        return PredictionRows(
            self.id_bytes[:num_bytes],
            self.id_bounds[: self.num_rows + 1],
            self.class_ids[:num_pairs],
            self.scores[:num_pairs],
            self.bounds[: self.num_rows + 1],
        )

    def append(self, video_id: bytes, class_ids: Sequence[int], scores: Sequence[float]) -> None:
        """Adds a row; without scores, where its pairs are labels."""
        self.reserve(1, len(video_id), len(class_ids))
        row = self.num_rows
        first_byte, first_pair = int(self.id_bounds[row]), int(self.bounds[row])
        self.id_bounds[row + 1] = first_byte + len(video_id)
        self.bounds[row + 1] = first_pair + len(class_ids)
        self.id_bytes[first_byte : first_byte + len(video_id)] = np.frombuffer(video_id, np.uint8)
        self.class_ids[first_pair : first_pair + len(class_ids)] = class_ids
        self.scores[first_pair : first_pair + len(scores)] = scores
        self.num_rows += 1

    def extend(self, rows: PredictionRows, chosen: np.ndarray) -> None:
        """Adds copies of some rows, int64 [M], in the order given."""
        num_bytes = int((rows.id_bounds[chosen + 1] - rows.id_bounds[chosen]).sum())
        num_pairs = int((rows.bounds[chosen + 1] - rows.bounds[chosen]).sum())
        self.reserve(len(chosen), num_bytes, num_pairs)
        _copy_rows(
            chosen,
            (rows.id_bytes, rows.id_bounds, rows.class_ids, rows.scores, rows.bounds),
            (self.id_bytes, self.id_bounds, self.class_ids, self.scores, self.bounds),
            self.num_rows,
        )
        self.num_rows += len(chosen)

    def reserve(self, num_rows: int, num_id_bytes: int, num_pairs: int) -> None:
        """Makes room for more."""
        needed_rows = self.num_rows + num_rows + 1
        self.id_bounds, self.bounds = _longer(self.id_bounds, needed_rows), _longer(self.bounds, needed_rows)
        self.id_bytes = _longer(self.id_bytes, int(self.id_bounds[self.num_rows]) + num_id_bytes)
        needed_pairs = int(self.bounds[self.num_rows]) + num_pairs
        self.class_ids, self.scores = _longer(self.class_ids, needed_pairs), _longer(self.scores, needed_pairs)


def check_pairs(class_ids: Sequence[int], scores: Sequence[float]) -> None:
    """Checks the classes of a video, and their scores if there are some.

    Raises:
        RowError: a class id out of range or there twice, a score that is none.
    """
    for class_id in class_ids:
        if not 0 <= class_id < MOST_CLASSES:
            raise RowError(f"class id {class_id} is out of range, valid are 0 to {MOST_CLASSES - 1}")
    for score in scores:
        if not 0 <= score < np.inf:
            raise RowError(f"score {score:g}: expected a number from 0 on")
    if scores and len(set(class_ids)) < len(class_ids):
        twice = next(class_id for place, class_id in enumerate(class_ids) if class_id in class_ids[:place])
        raise RowError(f"class {twice} is there twice")


@compiled
def find_bad_row(bounds: np.ndarray, class_ids: np.ndarray, scores: np.ndarray, flags: np.ndarray) -> int:
    """Returns the first row that `check_pairs` refuses, else -1; `flags` is uint8 [MOST_CLASSES], all 0."""
    for row in range(len(bounds) - 1):
        is_good = True
        checked = bounds[row]
        while checked < bounds[row + 1] and is_good:
            class_id = class_ids[checked]
            is_good = 0 <= class_id < MOST_CLASSES and 0 <= scores[checked] < np.inf and not flags[class_id]
            if is_good:
                flags[class_id] = 1
                checked += 1
        for pair in range(bounds[row], checked):
            flags[class_ids[pair]] = 0
        if not is_good:
            return row
    return -1


@compiled
def _copy_rows(chosen: np.ndarray, source: Any, target: Any, num_rows: int) -> None:
    id_bytes, id_bounds, class_ids, scores, bounds = source
    to_id_bytes, to_id_bounds, to_class_ids, to_scores, to_bounds = target
    for index in range(len(chosen)):
        row, to_row = chosen[index], num_rows + index
        to_byte, to_pair = to_id_bounds[to_row], to_bounds[to_row]
        for byte in range(id_bounds[row], id_bounds[row + 1]):
            to_id_bytes[to_byte] = id_bytes[byte]
            to_byte += 1
        for pair in range(bounds[row], bounds[row + 1]):
            to_class_ids[to_pair] = class_ids[pair]
            to_scores[to_pair] = scores[pair]
            to_pair += 1
        to_id_bounds[to_row + 1], to_bounds[to_row + 1] = to_byte, to_pair


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    """Returns the array, or a copy of twice its length where it is too short."""
    if len(array) >= length:
        return array
    longer = np.zeros(max(2 * len(array), length), array.dtype)
    longer[: len(array)] = array
    return longer
