"""Candidates and what they say of held-out videos -> which of them an ensemble takes, with which shares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yt8m_ray.config.export import ExportConfig, SelectionConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.choice_reports import Candidate, Trial, WeightingReport
from yt8m_ray.inference.ensemble.greedy_selection import select_members
from yt8m_ray.inference.ensemble.member_scores import Array, MemberScores
from yt8m_ray.inference.ensemble.weights import (
    MIN_GAIN,
    ascend,
    cross_fitted_gap,
    equal_shares,
    folds_of,
    least_squares_shares,
    moments,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Costs:
    """What each of M candidates costs: bytes as stored, and milliseconds a clip where a limit asks for them."""

    num_bytes: list[int]
    latency_ms: list[float] | None = None


def check_limits(config: ExportConfig, costs: Costs) -> None:
    """Checks that some member fits each limit; ConfigError names the limit and the member that needs least."""
    limits = config.selection or SelectionConfig()
    for key, limit, values in (
        ("max_bytes", limits.max_bytes, costs.num_bytes),
        ("max_latency_ms", limits.max_latency_ms, costs.latency_ms),
    ):
        if limit is not None and values is not None and min(values) > limit:
            index = int(np.argmin(values))
            raise ConfigError(
                f"selection.{key}: no member fits {limit:g}; the smallest is members.{index} with {values[index]:.10g}"
            )


class WeightingStrategy:
    """How shares come from scores: of all members, or of those that a greedy search takes within limits."""

    def __init__(self, config: ExportConfig, costs: Costs) -> None:
        self._name = config.weighting.name
        self._given = np.array(config.weights())
        self._selection = config.selection
        latencies = costs.latency_ms if costs.latency_ms is not None else [0.0] * len(costs.num_bytes)
        self._costs = np.stack([np.array(costs.num_bytes, np.float64), np.array(latencies)], axis=1)

    def __call__(self, scores: MemberScores) -> Array:
        """Returns shares [M] of the sum 1, 0 for members that are left out; ConfigError where none fits all limits."""
        # One pass over all pairs, from which the least squares of every set follow.
        needs_squares = self._name in ("nnls", "gap")
        triangle = moments(scores) if needs_squares else np.empty((0, scores.num_members + 1))
        members: Sequence[int] = range(scores.num_members)
        if self._selection is not None:
            # Sets are compared before any ascent, which would take a hundred times as long for each.
            limits = [self._selection.max_bytes, self._selection.max_latency_ms]
            members = select_members(
                lambda subset: _best(scores, self._proposals(triangle, sorted(subset)))[1],
                self._costs,
                np.array([np.inf if limit is None else limit for limit in limits]),
                min_gain=MIN_GAIN,
            ).members
        proposals = self._proposals(triangle, members)
        if self._name != "gap":
            return _best(scores, proposals)[0]
        # Ascent never falls below its start, and so the outcome is no worse than the best member alone.
        alone = [equal_shares([member], scores.num_members) for member in members]
        return ascend(scores, _best(scores, [*proposals, *alone])[0], members)[0]

    def _proposals(self, triangle: Array, members: Sequence[int]) -> list[Array]:
        """Returns the shares of a set of members that need no ascent."""
        equal = equal_shares(members, len(self._given))
        if self._name == "equal":
            return [equal]
        if self._name == "given":
            given = np.where(equal > 0, self._given, 0)
            return [given / given.sum()]
        least_squares = least_squares_shares(triangle, members)
        return [least_squares] if self._name == "nnls" else [equal, least_squares]


def _best(scores: MemberScores, proposals: Sequence[Array]) -> tuple[Array, float]:
    """Returns the shares of the highest GAP, the first of equals, and their GAP."""
    return max(((shares, scores.gap(shares)) for shares in proposals), key=lambda rated: rated[1])


def choose(
    config: ExportConfig, names: Sequence[str], scores: MemberScores, costs: Costs
) -> tuple[Array, WeightingReport]:
    """Returns the shares [M] of the candidates, 0 for those left out, and the report; `names` are architectures.

    ConfigError: no candidate fits all limits. ValueError: the videos have no labels, or too few for the folds.
    """
    weighting, limits = config.weighting, config.selection or SelectionConfig()
    check_labelled(scores)
    if len(np.unique(folds_of(scores.video_keys[scores.num_labels > 0], weighting.folds))) < 2:
        raise ValueError(
            f"weighting.folds: expected labelled videos in two of {weighting.folds} folds at least, found "
            f"{len(scores)} videos; choose by more of them"
        )
    rule = WeightingStrategy(config, costs)
    shares = rule(scores)
    logger.info("%d of %d models chosen; cross-fitting in %d folds", (shares > 0).sum(), len(shares), weighting.folds)
    patterns = weighting.shards
    assert patterns is not None
    return shares, WeightingReport(
        name=weighting.name,
        shards=[patterns] if isinstance(patterns, str) else patterns,
        num_videos=len(scores),
        folds=weighting.folds,
        max_bytes=limits.max_bytes,
        max_latency_ms=limits.max_latency_ms,
        gap_cross_fitted=cross_fitted_gap(scores, rule, weighting.folds),
        gap_in_sample=scores.gap(shares),
        gap_equal=scores.gap(equal_shares(range(len(shares)), len(shares))),
        num_uncertain=len(scores) - scores.num_certain(shares),
        candidates=[
            Candidate(
                name=names[index],
                checkpoint=member.checkpoint,
                ema=member.ema,
                transform=config.transform_of(member).name,
                weight=float(shares[index]),
                gap=scores.gap(equal_shares([index], len(shares))),
                num_bytes=costs.num_bytes[index],
                latency_ms=None if costs.latency_ms is None else costs.latency_ms[index],
            )
            for index, member in enumerate(config.members)
        ],
    )


def check_labelled(scores: MemberScores) -> None:
    """Checks that some video has a label, without which GAP of anything is 0; else ValueError."""
    if not scores.num_labels.any():
        raise ValueError(f"weighting.shards: none of its {len(scores)} videos has a label to choose by")


def smallest_within(trials: Sequence[Trial], max_gap_loss: float) -> Trial:
    """Returns the trial of the fewest bytes, the first of equals, that loses at most so much on the first trial."""
    trained = trials[0].gap
    return min((trial for trial in trials if trained - trial.gap <= max_gap_loss), key=lambda trial: trial.num_bytes)
