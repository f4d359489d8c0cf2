"""Average precision over pooled (score, hit) pairs, the core of GAP and mAP; ties count by their expectation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yt8m_ray.compiled import compiled

Array = npt.NDArray[Any]

_SCORE_BIT = np.uint64(32)
_CLASS_BITS = np.uint64((1 << 31) - 1)
_ONE = np.uint64(1)


def precision_sums(
    scores: Sequence[Array], hits: Sequence[Array], class_ids: Sequence[Array] | None, num_classes: int
) -> Array:
    """Returns, for each class, the sum over its hits of the precision at the hit's rank, float64 [num_classes].

    Pairs come in parts of any length: scores float32 or float64 [N], hits bool [N], and class ids [N], the ranking of
    each pair, or None for one ranking. There are fewer than 2**31 rankings.
    """
    pairs = _packed(scores, hits, class_ids)
    pairs.sort()
    sums = np.zeros(num_classes)
    _add_precisions(pairs, sums)
    return sums


def score_keys(scores: Array, hits: Array) -> Array:
    """Returns scores float64 [N], at least 0, with their hits bool [N], as integers for `precision_sum`, uint64 [N]."""
    # The bits of numbers that are not negative sort like them, and the sign's bit is free for the hit.
    return scores.view(np.uint64) << _ONE | hits


def precision_sum(keys: Sequence[Array]) -> float:
    """Returns the sum over all hits of the precision at the hit's rank, in one ranking of parts of `score_keys`."""
    pairs = np.concatenate([np.empty(0, np.uint64), *keys])
    pairs.sort()
    _rank(pairs)
    sums = np.zeros(1)
    _add_precisions(pairs, sums)
    return float(sums[0])


def _packed(scores: Sequence[Array], hits: Sequence[Array], class_ids: Sequence[Array] | None) -> Array:
    """Returns the pairs as integers that sort by score: 32 bits of rank, 31 of class id, 1 of hit."""
    # NumPy sorts integers with vector instructions, and one sort serves all rankings.
    pairs = np.empty(sum(map(len, scores)), dtype=np.uint64)
    first = 0
    for index, keys in enumerate(_ordered_keys(scores)):
        part = pairs[first : first + len(keys)]
        part[:] = keys
        part <<= _SCORE_BIT
        if class_ids is not None:
            part |= class_ids[index].astype(np.uint64) << _ONE
        part |= hits[index]
        first += len(keys)
    return pairs


def _ordered_keys(scores: Sequence[Array]) -> Iterable[Array]:
    """Returns, part by part, an integer below 2**32 for each score, in their order."""
    if all(part.dtype == np.float32 for part in scores):
        return map(_float32_keys, scores)
    # float64 has more bits than a pair has room for: the rank among all scores stands for each.
    ranks = np.unique(np.concatenate(scores), return_inverse=True)[1]
    return np.split(ranks, np.cumsum([len(part) for part in scores])[:-1])


def _float32_keys(scores: Array) -> Array:
    """Returns the bits of the scores, of negative ones the complement, which sort like the numbers."""
    # -0.0 + 0.0 is 0.0, which it equals.
    bits = (scores + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


@compiled
def _rank(keys: np.ndarray) -> None:
    """Turns sorted keys of `score_keys` into those of `_packed`, with class 0."""
    rank = before = np.uint64(0)
    for index in range(len(keys)):
        score, hit = keys[index] >> _ONE, keys[index] & _ONE
        if score != before:
            rank += _ONE
        before = score
        keys[index] = rank << _SCORE_BIT | hit


@compiled
def _close_group(class_id: Any, groups: np.ndarray, before: np.ndarray) -> float:
    """Returns what the open group of equal scores adds to a class, and empties it."""
    # `groups` [C, 2] are size n and hits k of each open group, `before` [C, 2] pairs R and hits P ahead of it.
    # The published code orders equal scores by a fixed pseudo-random permutation, so that its value depends on the
    # order of the videos. Here a group counts by its expectation over all its orders:
    #   sum over i = 1..n of (k / n) * (P + 1 + (i - 1) * (k - 1) / (n - 1)) / (R + i)
    # The pair at place i is a hit with probability k / n, and then the i - 1 pairs before it hold
    # (i - 1) * (k - 1) / (n - 1) of the other k - 1 hits on average. Without ties this is the published value.
    size, num_hits = groups[class_id, 0], groups[class_id, 1]
    pairs_before, hits_before = before[class_id, 0], before[class_id, 1]
    total = 0.0
    if num_hits:
        other_hits = (num_hits - 1) / max(size - 1, 1)
        for place in range(size):  # i - 1
            total += num_hits / size * (hits_before + 1 + place * other_hits) / (pairs_before + place + 1)
    before[class_id, 0], before[class_id, 1] = pairs_before + size, hits_before + num_hits
    groups[class_id, 0] = groups[class_id, 1] = 0
    return total


@compiled
def _add_precisions(pairs: np.ndarray, sums: np.ndarray) -> None:
    """Adds the precisions of the sorted pairs of `_packed` to `sums`, by class."""
    num_classes = len(sums)
    open_scores = np.zeros(num_classes, np.uint64)
    groups, before = np.zeros((num_classes, 2), np.int64), np.zeros((num_classes, 2), np.int64)
    for index in range(len(pairs) - 1, -1, -1):
        pair = pairs[index]
        score, class_id = pair >> _SCORE_BIT, np.int64((pair >> _ONE) & _CLASS_BITS)
        if score != open_scores[class_id]:
            sums[class_id] += _close_group(class_id, groups, before)
            open_scores[class_id] = score
        groups[class_id, 0] += 1
        groups[class_id, 1] += np.int64(pair & _ONE)
    for left in range(num_classes):
        sums[left] += _close_group(left, groups, before)
