"""The weight of each class in a loss, from its number of videos."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TextIO

import numpy as np

from yt8m_ray.local_files import regular_only

# Class id and count in the published vocabulary and in the table of `yt8m inspect`.
_COUNT_COLUMNS = (("Index", "TrainVideoCount"), ("class_id", "num_videos"))


def read_class_counts(path: str | Path) -> np.ndarray:
    """Returns the videos of each class, int64 [C], from a CSV file with a row a class, in order.

    Raises:
        ValueError: other columns, a class that is missing or out of order, or a count that is no number.
        OSError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="", opener=regular_only) as file:
            return _read_counts(file, path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8: {error}") from None


def _read_counts(file: TextIO, path: str | Path) -> np.ndarray:
    reader = csv.DictReader(file)
    names = next((pair for pair in _COUNT_COLUMNS if set(pair) <= set(reader.fieldnames or ())), None)
    if names is None:
        expected = " or ".join(f"{class_id}, {count}" for class_id, count in _COUNT_COLUMNS)
        raise ValueError(f"{path}: expected the columns {expected}, found {', '.join(reader.fieldnames or ())}")
    counts: list[int] = []
    for row in reader:
        class_id, count = row[names[0]], row[names[1]]
        if class_id != str(len(counts)) or not re.fullmatch(r"[0-9]{1,18}", count or ""):
            raise ValueError(f"{path}: expected class {len(counts)} and its count, found {class_id!r}, {count!r}")
        counts.append(int(count))
    if not any(counts):
        raise ValueError(f"{path}: no class has a video")
    return np.array(counts, np.int64)


def class_weights(counts: np.ndarray, *, most: float) -> np.ndarray:
    """Returns the weight of each class, min(most, s / count), float64 [C]; their mean over all labels is 1.

    Counts are int64 [C], not all 0; `most` is at least 1, which gives every class the weight 1.
    """
    # The mean of 1 keeps the size of the positive labels in the loss; all classes below `most` have the same share.
    # With the counts ascending, the k rarest classes at `most` and all others at s / count:
    #   most * sum of the k rarest + (C - k) s = sum of all.
    # s(k) is right for the first k whose next class, count_k, is not above `most` any more: s(k) <= most * count_k.
    ascending = np.sort(counts).astype(np.float64)
    num_capped = np.arange(len(counts))
    rarest = np.concatenate([[0.0], np.cumsum(ascending)[:-1]])
    scales = (ascending.sum() - most * rarest) / (len(counts) - num_capped)
    scale = scales[np.argmax(scales <= most * ascending * (1 + 1e-12))]
    # A class without videos has the largest weight.
    with np.errstate(divide="ignore"):
        weights: np.ndarray = np.minimum(most, scale / counts)
    return weights
