"""What is known of trials, which is best, and the front between score and cost."""

from __future__ import annotations

import itertools
import math
import random

from yt8m_ray.tuning.records import TrialRecord, TrialStatus, pareto_front, ranked, searched_keys, total_epochs


def record(
    number: int, *scores: float, status: TrialStatus = "completed", macs: float = 1.0, **params: int
) -> TrialRecord:
    return TrialRecord(number, params, status, scores=dict(enumerate(scores, start=1)), costs={"macs": macs})


def test_the_best_epoch_is_the_first_with_the_highest_score() -> None:
    found = record(0, 0.25, 0.75, 0.5, 0.75)

    assert (found.best_score, found.best_epoch, found.num_epochs) == (0.75, 2, 4)


def test_a_trial_before_its_first_epoch_has_no_best() -> None:
    found = record(0)

    assert math.isnan(found.best_score)
    assert (found.best_epoch, found.num_epochs) == (0, 0)


def test_an_epoch_without_a_score_was_trained_too() -> None:
    assert TrialRecord(0, {}, "completed", scores={1: 0.5, 4: 0.25}).num_epochs == 4


def test_the_best_comes_first_and_the_earlier_of_two_that_are_equal() -> None:
    records = [record(3, 0.5), record(1, 0.25, 0.75), record(0, 0.5), record(2, 0.75, 0.25)]

    assert [one.number for one in ranked(records)] == [1, 2, 0, 3]


def test_what_was_not_trained_to_an_end_or_has_no_score_is_not_ranked() -> None:
    statuses: tuple[TrialStatus, ...] = (
        *("completed", "pruned", "stopped", "running", "failed", "infeasible", "invalid"),
    )
    records = [record(number, 0.5, status=status) for number, status in enumerate(statuses)]

    assert [one.number for one in ranked([*records, record(7)])] == [0, 1, 2]


def test_the_front_is_what_no_other_beats_in_both() -> None:
    generator = random.Random(0)
    records = [record(number, generator.randrange(8) / 8, macs=float(generator.randrange(8))) for number in range(40)]

    def is_beaten(one: TrialRecord) -> bool:
        return any(
            other.best_score >= one.best_score
            and other.costs["macs"] <= one.costs["macs"]
            and (other.best_score, other.costs["macs"]) != (one.best_score, one.costs["macs"])
            for other in records
        )

    front = pareto_front(records, "macs")

    places = [(one.costs["macs"], one.best_score) for one in front]
    assert set(places) == {(one.costs["macs"], one.best_score) for one in records if not is_beaten(one)}
    assert all(cheap < dear and low < high for (cheap, low), (dear, high) in itertools.pairwise(places))


def test_a_trial_that_failed_is_not_on_the_front() -> None:
    assert pareto_front([record(0, 0.9, status="failed"), record(1, macs=0.5)], "macs") == []


def test_searched_keys_come_in_the_order_in_which_they_are_chosen() -> None:
    assert searched_keys([record(0, b=1), record(1, a=1, b=2), record(2, c=1)]) == ["b", "a", "c"]


def test_epochs_of_all_trials_count() -> None:
    records = [record(0, 0.1, 0.2), record(1, 0.1, status="failed"), record(2), record(3, 0.1, status="running")]

    assert total_epochs(records) == 4
