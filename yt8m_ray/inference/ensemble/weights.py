"""The shares of an ensemble's members, equal, by least squares or by ascent on GAP, and their worth on other videos.

All are functions of `MemberScores`, deterministic, and give shares [M] of the sum 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from scipy.optimize import nnls

from yt8m_ray.inference.ensemble.member_scores import Array, MemberScores, pooled_gap

Fit = Callable[[MemberScores], Array]

# A smaller share is 0: the member would cost its bytes and its time for nothing that can be measured.
MIN_SHARE = 1e-3
# The least by which GAP has to rise: less is the rounding of float32 means.
MIN_GAIN = 1e-6

_FIRST_STEP = 0.25
# A finer step moves GAP by less than any two splits differ.
_LAST_STEP = 1 / 128
_CHUNK_PAIRS = 1 << 18
_RIDGE = 1e-6


def equal_shares(members: Sequence[int], num_members: int) -> Array:
    """Returns equal shares of the given members, 0 of the others."""
    shares = np.zeros(num_members)
    shares[list(members)] = 1 / len(members)
    return shares


def moments(scores: MemberScores) -> Array:
    """Returns all that least squares need of P pairs: the triangle R of their QR, float64 [up to M + 1, M + 1]."""
    # For the table A [P, M] of scores and y [P] of hits it is |A w - y| = |R[:, :M] w - R[:, M]| for every w.
    triangle: Array = np.zeros((0, scores.num_members + 1))
    for start in range(0, len(scores.hits), _CHUNK_PAIRS):
        pairs = slice(start, start + _CHUNK_PAIRS)
        table = np.column_stack([scores.scores[pairs], scores.hits[pairs]]).astype(np.float64)
        triangle = cast(Array, np.linalg.qr(np.vstack([triangle, table]), mode="r"))
    return triangle


def least_squares_shares(triangle: Array, members: Sequence[int]) -> Array:
    """Returns the shares of non-negative least squares: the mean of probabilities that is closest to the labels.

    Only `members` have a share; `triangle` is from `moments`. Labels outside the union, to which every member gives
    little, are not seen. Members that say the same get the same; all do where none gives anything to any label.
    """
    columns, num_members = list(members), triangle.shape[1] - 1
    table, target = triangle[:, columns], triangle[:, -1]
    # A little ridge decides between members that say the same, which least squares leave open.
    ridge = np.sqrt(_RIDGE * max(float(np.square(table).sum()) / len(columns), np.finfo(np.float64).tiny))
    found, _ = nnls(np.vstack([table, ridge * np.eye(len(columns))]), np.concatenate([target, np.zeros(len(columns))]))
    shares = np.zeros(num_members)
    shares[columns] = found
    return _normalized(shares) if shares.any() else equal_shares(members, num_members)


def ascend(scores: MemberScores, start: Array, members: Sequence[int]) -> tuple[Array, float]:
    """Returns (shares, their GAP) of coordinate ascent on GAP from shares `start`, to a local maximum.

    The share of one of `members` after another is raised or lowered by a step, the others scaled to fit, and kept where
    GAP rises; the step is halved when no change helps.
    """
    shares, best = start, scores.gap(start)
    step = _FIRST_STEP
    while step >= _LAST_STEP:
        has_risen = False
        for member in members:
            for change in (step, -step):
                moved = _moved(shares, member, change)
                if moved is not None and (gap := scores.gap(moved)) > best + MIN_GAIN:
                    shares, best, has_risen = moved, gap, True
                    break
        if not has_risen:
            step /= 2
    return shares, best


def cross_fitted_gap(scores: MemberScores, fit: Fit, num_folds: int) -> float:
    """Returns GAP of all videos' means, each with the shares that `fit` found on the other folds."""
    # No video has a part in the weights of its own mean: this is what the rule is worth on videos like these, where GAP
    # of shares that were fitted on all of them is too high by what they fit to chance.
    fold_of = folds_of(scores.video_keys, num_folds)
    ranked = []
    for fold in np.unique(fold_of).tolist():
        shares = fit(scores.select(fold_of != fold))
        ranked.append(scores.select(fold_of == fold).best_pairs(shares))
    return pooled_gap(ranked, int(scores.num_labels.sum()))


def folds_of(video_keys: Array, num_folds: int) -> Array:
    """Returns the fold of each video, int64 [N], by a hash of its key, uint64 [N, 2], whatever the order."""
    # MurmurHash3's 64-bit finalizer: ids are text, whose bits by themselves are anything but evenly distributed.
    mixed = video_keys[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ video_keys[:, 1]
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(33)
    folds: Array = (mixed % np.uint64(num_folds)).astype(np.int64)
    return folds


def _moved(shares: Array, member: int, change: float) -> Array | None:
    moved = shares.copy()
    moved[member] = max(moved[member] + change, 0.0)
    if moved[member] == shares[member] or not moved.any():
        return None
    moved = _normalized(moved)
    return None if np.array_equal(moved, shares) else moved


def _normalized(shares: Array) -> Array:
    shares = shares / shares.sum()
    shares[shares < MIN_SHARE] = 0
    normalized: Array = shares / shares.sum()
    return normalized
