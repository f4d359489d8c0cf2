"""Candidates and what they say of held-out videos -> which of them an ensemble takes, with which shares."""

from __future__ import annotations

import functools
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


def find_shares(config: ExportConfig, costs: Costs, scores: MemberScores) -> Array:
    """Returns shares [M] of the sum 1, 0 for members that are left out; ConfigError where none fits all limits."""
    name, num_members = config.weighting.name, scores.num_members
    # One pass over all pairs, from which the least squares of every set follow.
    triangle = moments(scores) if name in ("nnls", "gap") else np.empty((0, num_members + 1))

    def proposals(members: Sequence[int]) -> list[Array]:
        """Returns the shares of a set of members that need no ascent."""
        equal = equal_shares(members, num_members)
        if name == "equal":
            return [equal]
        if name == "given":
            given = np.where(equal > 0, config.weights(), 0)
            return [given / given.sum()]
        least_squares = least_squares_shares(triangle, members)
        return [least_squares] if name == "nnls" else [equal, least_squares]

    members: Sequence[int] = range(num_members)
    if config.selection is not None:
        latencies = [0.0] * num_members if costs.latency_ms is None else costs.latency_ms
        limits = [config.selection.max_bytes, config.selection.max_latency_ms]
        # Sets are compared before any ascent, which would take a hundred times as long for each.
        members = select_members(
            lambda subset: _best(scores, proposals(sorted(subset)))[1],
            np.column_stack([costs.num_bytes, latencies]),
            np.array([np.inf if limit is None else limit for limit in limits]),
            min_gain=MIN_GAIN,
        )
    if name != "gap":
        return _best(scores, proposals(members))[0]
    # Ascent never falls below its start, and so the outcome is no worse than the best member alone.
    alone = [equal_shares([member], num_members) for member in members]
    return ascend(scores, _best(scores, [*proposals(members), *alone])[0], members)[0]


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
    # Cross-fitting applies the whole rule to the other folds, with its choice of members.
    rule = functools.partial(find_shares, config, costs)
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
