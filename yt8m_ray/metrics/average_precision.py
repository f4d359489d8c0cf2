"""Average precision over pooled (score, hit) pairs, the core of GAP and of mAP.

Ties: the published code orders equal scores by a fixed pseudo-random permutation, so that its value depends on the
order of the videos. Here a group of equal scores counts by its expectation over all its orders. A group of n pairs with
k hits that follows R pairs with P hits adds

    sum over i = 1..n of (k / n) * (P + 1 + (i - 1) * (k - 1) / (n - 1)) / (R + i)

because the pair at place i of the group is a hit with probability k / n, and then the i - 1 pairs before it hold
(i - 1) * (k - 1) / (n - 1) of the other k - 1 hits on average. Without ties this is the published value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CHUNK_PAIRS = 1 << 20
"""Pairs whose terms are held at once, which bounds the memory when millions of scores are equal."""


def precision_sums(scores: Array, hits: Array, class_ids: Array, num_classes: int) -> Array:
    """Returns, for each class, the sum over its hits of the precision at the hit's rank, float64 [num_classes].

    Args:
        scores: [N], in any order.
        hits: bool [N].
        class_ids: [N], the ranking that each pair belongs to; 16-bit ids are sorted fastest.
        num_classes: Number of rankings.
    """
    order = np.argsort(scores)[::-1]
    if num_classes > 1:
        order = order[np.argsort(class_ids[order], kind="stable")]
    scores, hits, class_ids = scores[order], hits[order], class_ids[order]
    del order
    class_starts = np.searchsorted(class_ids, np.arange(num_classes))
    hits_before: Array = np.zeros(len(hits) + 1, dtype=np.int32 if len(hits) < 1 << 31 else np.int64)
    np.cumsum(hits, out=hits_before[1:])

    starts_group = np.ones(len(scores), dtype=bool)
    starts_group[1:] = (scores[1:] != scores[:-1]) | (class_ids[1:] != class_ids[:-1])
    starts = np.flatnonzero(starts_group)
    sizes = np.diff(starts, append=len(scores))
    group_hits = hits_before[starts + sizes] - hits_before[starts]
    has_hits = group_hits > 0
    starts, sizes, group_hits = starts[has_hits], sizes[has_hits], group_hits[has_hits]

    group_classes = class_ids[starts]
    pairs_before = starts - class_starts[group_classes]
    group_hits_before = hits_before[starts] - hits_before[class_starts[group_classes]]
    return _expected_sums(sizes, group_hits, pairs_before, group_hits_before, group_classes, num_classes)


def _expected_sums(
    sizes: Array, hits: Array, pairs_before: Array, hits_before: Array, class_ids: Array, num_classes: int
) -> Array:
    """Returns the sums of the formula above for groups with n = sizes, k = hits, R = pairs_before, P = hits_before."""
    sums = np.zeros(num_classes)
    ends = np.cumsum(sizes)
    num_pairs = int(ends[-1]) if len(ends) else 0
    other_hits = (hits - 1) / np.maximum(sizes - 1, 1)
    for first in range(0, num_pairs, CHUNK_PAIRS):
        pairs = np.arange(first, min(first + CHUNK_PAIRS, num_pairs))
        group = np.searchsorted(ends, pairs, side="right")
        place = pairs - (ends - sizes)[group]  # i - 1
        expected_hits = hits_before[group] + 1 + place * other_hits[group]
        terms = hits[group] / sizes[group] * expected_hits / (pairs_before[group] + place + 1)
        sums += np.bincount(class_ids[group], weights=terms, minlength=num_classes)
    return sums
