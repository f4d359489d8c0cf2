"""The smallest way to store a member that loses little enough."""

from __future__ import annotations

import pytest

from yt8m_ray.inference.bundle.choice_reports import TransformReport, Trial, TriedMember, format_trials
from yt8m_ray.inference.ensemble.choose_members import smallest_within

TRAINED = Trial(transform="none", gap=0.7, num_bytes=400)
INT4 = Trial(transform="int4", gap=0.6989, num_bytes=60)
INT8 = Trial(transform="int8", gap=0.6998, num_bytes=100)
HALF = Trial(transform="float16", gap=0.70001, num_bytes=200)
TRIALS = [TRAINED, INT4, INT8, HALF]


@pytest.mark.parametrize(
    ("limit", "expected"), [(0.002, INT4), (0.001, INT8), (0.0005, INT8), (0.0001, HALF), (0.0, HALF)]
)
def test_the_smallest_within_the_limit_is_taken(limit: float, expected: Trial) -> None:
    assert smallest_within(TRIALS, limit) == expected


def test_where_all_lose_more_the_weights_stay_as_trained() -> None:
    assert smallest_within([TRAINED, INT4, INT8], 0.0001) == TRAINED


def test_of_equally_many_bytes_the_first_is_taken() -> None:
    other = INT8.model_copy(update={"transform": "uniform"})

    assert smallest_within([TRAINED, INT8, other], 0.001) == INT8
    assert smallest_within([TRAINED, other, INT8], 0.001) == other


def test_the_lines_say_what_each_way_costs_and_which_was_taken() -> None:
    member = TriedMember(name="moe", checkpoint="runs/moe", ema=True, transform="int8", trials=TRIALS)
    report = TransformReport(shards=["a", "b"], num_videos=300, max_gap_loss=0.0005, members=[member])

    lines = format_trials(report)

    assert lines[0] == "stored as the smallest that loses at most 0.0005 of GAP, on 300 videos of 2 other shards:"
    assert lines[1] == "moe of runs/moe, ema: true"
    assert [line.split() for line in lines[2:]] == [
        ["GAP", "loss", "MB"],
        ["int4", "0.698900", "0.001100", "0.00"],
        ["int8", "0.699800", "0.000200", "0.00", "taken"],
        ["float16", "0.700010", "-0.000010", "0.00"],
        ["none", "0.700000", "0.000000", "0.00"],
    ]


def test_a_loss_of_nothing_has_no_sign() -> None:
    trials = [TRAINED, INT8.model_copy(update={"gap": 0.7 + 1e-9})]
    member = TriedMember(name="moe", checkpoint="runs/moe", transform="int8", trials=trials)

    text = "\n".join(format_trials(TransformReport(shards=["a"], num_videos=9, max_gap_loss=0, members=[member])))

    assert "-0.000000" not in text
