"""From what candidates say to an ensemble: rules, limits, and what is reported."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.inference.ensemble.test_member_scores import answers, ids, scores_of
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.choice_reports import WeightingReport, format_weighting
from yt8m_ray.inference.ensemble.choose_members import Costs, check_limits, choose, find_shares
from yt8m_ray.inference.ensemble.member_scores import MemberScores
from yt8m_ray.inference.ensemble.weights import cross_fitted_gap

NAMES = ["netvlad", "gru", "moe"]
COSTS = Costs([700, 400, 300], [7.0, 4.0, 3.0])


def config(name: str, *, weights: Sequence[float] = (1, 1, 1), **changes: Any) -> ExportConfig:
    tree = {
        "members": [{"checkpoint": f"runs/{kind}", "weight": w} for kind, w in zip(NAMES, weights, strict=True)],
        "weighting": {"name": name, "shards": "held_out.tfrecord", "folds": 3},
        "output": "bundle",
    }
    return ExportConfig.model_validate({**tree, **changes})


@pytest.fixture(scope="module")
def scores() -> MemberScores:
    """Returns three members, each worse than the one before, the last of which guesses."""
    logits, labels = answers(80, num_classes=60)
    noise = torch.randn(3, *labels.shape, generator=torch.Generator().manual_seed(1))
    return scores_of([logits[0] + noise[0], logits[1] + 1.5 * noise[1], 3 * noise[2] - 4], labels, top_k=60)


def gap(scores: MemberScores, *shares: float) -> float:
    return scores.gap(np.array(shares) / sum(shares))


def test_equal_and_given_shares_are_what_they_say(scores: MemberScores) -> None:
    selection = {"max_bytes": 1e9}
    ones = find_shares(config("equal", selection=selection), COSTS, scores)
    given = find_shares(config("given", weights=(2, 1, 1), selection=selection), COSTS, scores)

    assert ones.tolist() == [0.5, 0.5, 0]  # the one that guesses lowers GAP
    assert given == pytest.approx([2 / 3, 1 / 3, 0])


def test_gap_is_at_least_that_of_every_other_rule_and_member_in_sample(scores: MemberScores) -> None:
    found = {name: scores.gap(find_shares(config(name), COSTS, scores)) for name in ("nnls", "gap")}
    alone = [gap(scores, *row) for row in np.eye(3).tolist()]

    assert found["gap"] >= max(found["nnls"], gap(scores, 1, 1, 1), *alone)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"max_bytes": 1100}, {0, 1}),
        ({"max_bytes": 1000}, {0}),
        ({"max_bytes": 600}, {1}),
        ({"max_latency_ms": 6}, {1}),
        ({"max_bytes": 1000, "max_latency_ms": 3.5}, {2}),
        ({}, {0, 1}),
    ],
)
def test_members_are_chosen_within_the_limits(
    scores: MemberScores, selection: dict[str, float], expected: set[int]
) -> None:
    shares = find_shares(config("equal", selection=selection), COSTS, scores)

    assert set(np.flatnonzero(shares).tolist()) == expected


def test_the_report_states_the_rule_its_honest_figure_and_every_candidate(scores: MemberScores) -> None:
    asked = config("nnls", selection={"max_bytes": 1150})

    shares, report = choose(asked, NAMES, scores, COSTS)

    assert (report.name, report.shards, report.num_videos, report.folds) == ("nnls", ["held_out.tfrecord"], 80, 3)
    assert (report.max_bytes, report.max_latency_ms, report.num_uncertain) == (1150, None, 0)
    assert report.gap_in_sample == scores.gap(shares)
    assert report.gap_equal == gap(scores, 1, 1, 1)
    assert report.gap_cross_fitted == cross_fitted_gap(scores, functools.partial(find_shares, asked, COSTS), 3)
    assert [candidate.weight for candidate in report.candidates] == shares.tolist()
    assert [candidate.gap for candidate in report.candidates] == [gap(scores, *row) for row in np.eye(3).tolist()]
    assert [(entry.name, entry.checkpoint, entry.num_bytes, entry.latency_ms) for entry in report.candidates] == [
        ("netvlad", "runs/netvlad", 700, 7.0),
        ("gru", "runs/gru", 400, 4.0),
        ("moe", "runs/moe", 300, 3.0),
    ]


def test_the_selection_is_part_of_what_is_cross_fitted() -> None:
    # All members guess: one that was chosen for its luck on some folds has none on the others.
    generator = torch.Generator().manual_seed(5)
    labels = (torch.rand(60, 40, generator=generator) < 0.1).float()
    scores = scores_of(list(torch.randn(3, 60, 40, generator=generator)), labels, top_k=40)

    _, report = choose(config("equal", selection={"max_bytes": 700}), NAMES, scores, COSTS)

    assert report.gap_cross_fitted < report.gap_in_sample


def test_what_was_left_out_is_told_with_its_cost(scores: MemberScores) -> None:
    _, report = choose(config("equal", selection={"max_bytes": 1100}), NAMES, scores, COSTS)

    lines = format_weighting(report)

    assert lines[0] == "chosen on 80 videos of 1 other shards:"
    assert [line.rsplit(" ", 1)[1] for line in lines[1:5]] == [
        f"{value:.6f}"
        for value in (report.gap_cross_fitted, report.gap_in_sample, report.gap_equal, report.candidates[0].gap)
    ]
    assert lines[5:] == [f"left out: moe (GAP {report.candidates[2].gap:.6f}, 0.00 MB as int8, 3.0 ms) of runs/moe"]


def test_a_report_survives_save_and_load(scores: MemberScores) -> None:
    _, report = choose(config("gap"), NAMES, scores, Costs([700, 400, 300]))

    assert WeightingReport.model_validate(report.model_dump(mode="json")) == report


def test_videos_without_labels_choose_nothing() -> None:
    scores = scores_of([torch.randn(4, 30)] * 3, torch.zeros(4, 30), top_k=20)

    with pytest.raises(ValueError, match=r"weighting\.shards: none of its 4 videos has a label"):
        choose(config("nnls"), NAMES, scores, COSTS)


def test_too_few_videos_for_the_folds_are_told() -> None:
    labels = torch.zeros(1, 30)
    labels[0, 3] = 1
    scores = MemberScores.from_logits([torch.randn(1, 30)] * 3, labels, ids(1), top_k=30)

    with pytest.raises(
        ValueError, match=r"weighting\.folds: expected labelled videos in two of 3 folds at least, found 1"
    ):
        choose(config("nnls"), NAMES, scores, COSTS)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"max_bytes": 299}, r"selection\.max_bytes: no member fits 299; the smallest is members\.2 with 300"),
        ({"max_latency_ms": 1.5}, r"selection\.max_latency_ms: no member fits 1\.5; the smallest is members\.2 with 3"),
    ],
)
def test_a_limit_that_no_member_fits_is_told(selection: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_limits(config("equal", selection=selection), COSTS)


def test_limits_that_members_fit_or_that_are_not_there_are_no_fault() -> None:
    check_limits(config("equal", selection={"max_bytes": 300}), Costs([700, 400, 300]))
    check_limits(config("nnls"), COSTS)
