"""A search as its user sees it, drawn on a console of 120 columns."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence

import pytest
from rich.console import Console

from yt8m_ray.tuning.progress import describe_end, describe_params, headline, live_table, shown, trials_table
from yt8m_ray.tuning.records import TrialRecord, TrialStatus

RATE, EXPERTS, MODEL, LOSS = "optimizer.learning_rate", "model.num_mixtures", "model.name", "loss.name"


def record(number: int, *scores: float, status: TrialStatus = "completed", **facts: object) -> TrialRecord:
    params = facts.pop("params", {RATE: 0.0123456, EXPERTS: 2})
    return TrialRecord(number, params, status, scores=dict(enumerate(scores, start=1)), **facts)  # type: ignore[arg-type]


def drawn(records: Sequence[TrialRecord], title: str = "") -> list[str]:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(trials_table(records, metric="gap", title=title))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_row_has_the_values_the_epoch_both_scores_the_speed_and_the_status() -> None:
    header, row = drawn([record(3, 0.25, 0.75, 0.5, videos_per_s=1234.6)])

    assert header.split("  ") == [
        *(" trial", "learning_rate", "num_mixtures", "epoch", "last gap", "best gap", "videos/s", "status")
    ]
    assert row.split() == ["3", "0.0123", "2", "3", "0.5000", "0.7500", "1235", "completed"]


def test_what_is_not_known_yet_is_empty() -> None:
    assert drawn([record(0, status="running", params={})])[1].split() == ["0", "0", "running"]


def test_running_trials_come_first_then_the_best_and_at_last_what_has_no_score() -> None:
    records = [
        record(0, 0.5),
        record(1, status="failed"),
        record(2, 0.75, status="pruned"),
        record(3, 0.25, status="running"),
        record(4, status="infeasible"),
        record(5, status="running"),
    ]

    assert [line.split()[0] for line in drawn(records)[1:]] == ["3", "5", "2", "0", "4", "1"]


def test_a_long_search_keeps_its_running_and_best_trials_in_sight() -> None:
    records = [record(number, number / 100) for number in range(50)] + [record(50, status="running")]

    numbers = [line.split()[0] for line in drawn(records)[1:]]

    assert numbers == ["50", *(str(number) for number in range(49, 30, -1))]


def test_keys_with_the_same_last_part_show_what_tells_them_apart() -> None:
    header = drawn([record(0, 0.5, params={MODEL: "moe", LOSS: "focal", RATE: 1.0})])[0]

    assert header.split()[:4] == ["trial", "model.name", "loss.name", "learning_rate"]


def test_a_key_that_ends_as_another_is_called_keeps_all_its_parts() -> None:
    header = drawn([record(0, 0.5, params={"model": {"name": "moe"}, "teacher.model": {"name": "cnn"}, RATE: 1.0})])[0]

    assert header.split()[:4] == ["trial", "model", "teacher.model", "learning_rate"]


def test_a_key_that_was_not_chosen_is_empty_and_null_is_not() -> None:
    rows = drawn([record(0, 0.75, params={MODEL: "moe", "model.low_rank": None}), record(1, 0.5, params={MODEL: "a"})])

    assert [row.split()[1:3] for row in rows[1:]] == [["moe", "None"], ["a", "1"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000123456, "0.000123"),
        (1e-6, "1e-06"),
        (12345678.0, "1.23e+07"),
        (4096, "4096"),
        (None, "None"),
        (True, "True"),
        ("moe", "moe"),
        ({"name": "moe", "num_mixtures": 2}, "moe"),
        ({"rgb": 8}, "{'rgb': 8}"),
        (["a", "b"], "['a', 'b']"),
    ],
)
def test_a_value_is_shown_short(value: object, text: str) -> None:
    assert shown(value) == text


def test_values_in_a_row_have_their_keys() -> None:
    assert describe_params({RATE: 0.25, MODEL: "moe"}) == "optimizer.learning_rate=0.25  model.name=moe"


@pytest.mark.parametrize(
    ("trial", "text"),
    [
        (record(0, 0.25, 0.5, 0.4), "trial 0 completed; best 0.5000 in epoch 2 of 3"),
        (record(1, status="infeasible", cause="macs 5 > 4"), "trial 1 infeasible: macs 5 > 4; no epoch of 0"),
        (record(2, 0.5, status="failed", cause="no memory"), "trial 2 failed: no memory; best 0.5000 in epoch 1 of 1"),
    ],
)
def test_the_end_of_a_trial_is_a_line(trial: TrialRecord, text: str) -> None:
    assert describe_end(trial) == text


def test_the_headline_counts_trials_and_epochs_and_names_the_best() -> None:
    records = [record(0, 0.5), record(1, 0.25, 0.75), record(2, 0.9, status="failed"), record(3, status="running")]

    assert headline(records, metric="gap") == (
        "4 trials: 2 completed, 1 failed, 1 running; 4 epochs; best gap 0.7500 (trial 1)"
    )


def test_a_search_that_has_just_begun_has_a_headline() -> None:
    assert headline([], metric="gap") == "0 trials: none; 0 epochs"


def test_the_headline_is_above_the_table() -> None:
    assert drawn([record(0, 0.5)], title="4 trials")[0] == "4 trials"


def test_without_a_terminal_there_is_no_table_and_the_log_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)

    with live_table("gap") as show:
        show([record(0, 0.5)])
        assert logging.getLogger().handlers == handlers

    assert capsys.readouterr() == ("", "")
