"""Compiled loops over the scores and the labels of a batch: each video's best classes, and the labels it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from yt8m_ray.compiled import compiled

Array = npt.NDArray[Any]

# Loops over all classes hold nothing but comparisons, in the order of memory: the compiler turns them into vector
# instructions. They leave some twenty candidates a video to the other loops.

# Groups of classes: at least k classes reach the k-th best of their maxima, and few more for k < NUM_LANES / 3.
NUM_LANES = 64

# Most classes a video for which `select_best` is fast; with more, the bound leaves too many candidates.
MAX_SELECTED = 48

# Flags of a byte that one comparison tests.
_WORD = 8


@compiled
def _flagged(flags: np.ndarray, words: np.ndarray, found: np.ndarray) -> int:
    """Returns how many flags are set, and fills `found` with their places; `words` is a view of `flags`."""
    num_found = 0
    for word in range(len(words)):
        if words[word]:
            for place in range(word * _WORD, word * _WORD + _WORD):
                found[num_found] = place
                num_found += flags[place]
    return num_found


# No early return: a loop with one is not turned into vector instructions.
@compiled
def _has_nan(row: np.ndarray) -> bool:
    has_nan = False
    for class_id in range(len(row)):
        has_nan |= row[class_id] != row[class_id]
    return has_nan


@compiled
def _bound(row: np.ndarray, k: int, lanes: np.ndarray, num_better: np.ndarray) -> Any:
    """Returns a score that at least k classes reach, k <= NUM_LANES; -inf where there are fewer classes than lanes."""
    num_groups = len(row) // NUM_LANES
    lanes[:] = -np.inf
    groups = row[: num_groups * NUM_LANES].reshape(num_groups, NUM_LANES)
    for group in range(num_groups):
        for lane in range(NUM_LANES):
            score = groups[group, lane]
            lanes[lane] = score if score > lanes[lane] else lanes[lane]
    num_better[:] = 0
    for other in range(NUM_LANES):
        for lane in range(NUM_LANES):
            num_better[lane] += np.int32(lanes[other] > lanes[lane])
    bound = lanes.max()
    for lane in range(NUM_LANES):
        if num_better[lane] < k and lanes[lane] < bound:
            bound = lanes[lane]
    return bound


@compiled
def select_best(scores: np.ndarray, best_scores: np.ndarray, best_ids: np.ndarray) -> int:
    """Fills in the k best classes of each video, best first, of equal scores the lower id first.

    `scores` are [B, C], the results [B, k], k at most C and MAX_SELECTED. Returns the first row with a NaN, at which it
    stops, or -1.
    """
    num_classes, k = scores.shape[1], best_ids.shape[1]
    flags = np.zeros((num_classes + _WORD - 1) // _WORD * _WORD, np.uint8)
    words = flags.view(np.uint64)
    candidates = np.empty(len(flags) + 1, np.int32)
    lanes = np.empty(NUM_LANES, scores.dtype)
    num_better = np.empty(NUM_LANES, np.int32)
    for video in range(len(scores)):
        row, row_scores, row_ids = scores[video], best_scores[video], best_ids[video]
        if _has_nan(row):
            return video
        bound = _bound(row, k, lanes, num_better)
        for class_id in range(num_classes):
            flags[class_id] = row[class_id] >= bound
        num_candidates = _flagged(flags, words, candidates)
        num_kept = 0
        # Class ids ascend here: inserting a candidate after its equals keeps them in order.
        for candidate in candidates[:num_candidates]:
            score = row[candidate]
            if num_kept < k:
                place = num_kept
                num_kept += 1
            elif score > row_scores[k - 1]:
                place = k - 1
            else:
                continue
            while place > 0 and row_scores[place - 1] < score:
                row_scores[place] = row_scores[place - 1]
                row_ids[place] = row_ids[place - 1]
                place -= 1
            row_scores[place] = score
            row_ids[place] = candidate
    return -1


@compiled
def find_labels(labels: np.ndarray, ends: np.ndarray, class_counts: np.ndarray) -> np.ndarray:
    """Returns the class ids of all labels, int32, video by video; a label is a number above 0 in `labels` [B, C].

    Fills `ends`, int64 [B], with the place after each video's last label, and adds to `class_counts`, int64 [C].
    """
    num_classes = labels.shape[1]
    flags = np.zeros((num_classes + _WORD - 1) // _WORD * _WORD, np.uint8)
    words = flags.view(np.uint64)
    class_ids = np.empty(4 * len(labels) + num_classes + _WORD, np.int32)
    zero = labels.dtype.type(0)
    num_labels = 0
    for video in range(len(labels)):
        row = labels[video]
        for class_id in range(num_classes):
            flags[class_id] = row[class_id] > zero
        # Room for a video that has every label; `_flagged` writes one place past the last.
        if num_labels + len(flags) + 1 > len(class_ids):
            longer = np.empty(2 * len(class_ids) + len(flags), np.int32)
            longer[:num_labels] = class_ids[:num_labels]
            class_ids = longer
        first = num_labels
        num_labels += _flagged(flags, words, class_ids[first:])
        for class_id in class_ids[first:num_labels]:
            class_counts[class_id] += 1
        ends[video] = num_labels
    return class_ids[:num_labels]


@compiled
def find_hits(class_ids: np.ndarray, label_ids: np.ndarray, label_ends: np.ndarray, hits: np.ndarray) -> None:
    """Fills `hits`, bool [B, k], with whether each of a video's class ids [B, k] is a label; see `find_labels`."""
    first = 0
    for video in range(len(class_ids)):
        for place in range(class_ids.shape[1]):
            hits[video, place] = False
            for label in label_ids[first : label_ends[video]]:
                hits[video, place] |= label == class_ids[video, place]
        first = label_ends[video]
