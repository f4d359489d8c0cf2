"""Which configurations a search hands out: limits, grids, budgets, first and earlier trials, fronts."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.support.searches import FIFO, config_of, macs_of, open_study, optuna_study, started, trained
from yt8m_ray.errors import ConfigError
from yt8m_ray.tuning import study as module
from yt8m_ray.tuning.records import TrialRecord, TrialStatus
from yt8m_ray.tuning.study_file import STUDY_FILE, read_records


def test_what_is_over_a_limit_is_noted_and_passed_over(tmp_path: Path) -> None:
    grid = config_of({"model.num_mixtures": {"choice": [5000, 3, 2500, 4]}}, searcher="grid", limits={"macs": 4})
    study = open_study(tmp_path, grid, macs_of)

    found = [study.next() for _ in range(3)]

    assert [one and one.params["model.num_mixtures"] for one in found] == [3, 4, None]
    assert [record.status for record in study.records()] == ["infeasible", "running", "infeasible", "running"]
    assert study.record(0).cause == "macs 5,000 > 4"
    assert study.record(1).costs == {"macs": 3.0, "int8_bytes": 7.0}


def test_every_limit_that_a_trial_is_over_is_named(tmp_path: Path) -> None:
    config = config_of({"model.num_mixtures": {"choice": [9]}}, searcher="grid", limits={"macs": 8, "int8_bytes": 6.5})

    assert open_study(tmp_path, config, macs_of).next() is None
    assert read_records(tmp_path)[0][0].cause == "int8_bytes 7 > 6.5, macs 9 > 8"


def test_the_searcher_hears_how_far_a_trial_is_from_a_limit(tmp_path: Path) -> None:
    config = config_of({"model.num_mixtures": {"choice": [9, 4]}}, searcher="grid", limits={"macs": 8})
    open_study(tmp_path, config, macs_of).next()

    assert [trial.constraints for trial in optuna_study(tmp_path).trials] == [{"macs": 0.125}, {"macs": -0.5}]


def test_what_is_over_a_limit_does_not_count_in_the_budget(tmp_path: Path) -> None:
    config = config_of(
        {"model.num_mixtures": {"choice": [9, 8, 1, 2, 3]}}, searcher="grid", limits={"macs": 7}, budget={"trials": 2}
    )
    study = open_study(tmp_path, config, macs_of)

    assert [one and one.number for one in (study.next(), study.next(), study.next())] == [2, 3, None]


INVALID = {"model.num_mixtures": {"choice": [2]}, "optimizer.momentum": {"choice": [0.5, 0.9]}}


def test_keys_that_do_not_go_together_are_noted_and_passed_over(tmp_path: Path) -> None:
    study = open_study(tmp_path, config_of(INVALID, searcher="grid"))  # Adam has no momentum, but SGD with 0.9

    found = study.next()

    assert (found and found.params["optimizer.momentum"], study.record(0).status) == (0.9, "invalid")
    assert study.record(0).cause == "optimizer: momentum: name adam does not use it, only sgd"


def test_a_search_without_any_valid_configuration_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REFUSED", 3)
    study = open_study(tmp_path, config_of(limits={"macs": 0.5}), macs_of)

    with pytest.raises(ConfigError, match=r"^tune.space: 3 configurations in a row .* the last: macs \d+ > 0.5$"):
        study.next()
    assert [record.status for record in study.records()] == ["infeasible"] * 3


def test_a_grid_ends_behind_its_last_configuration(tmp_path: Path) -> None:
    space = {"model.num_mixtures": {"choice": [2, 1]}, "model.l2": {"quniform": [0.1, 0.3, 0.1]}}
    expected = [(number, l2) for number in (2, 1) for l2 in (0.1, 0.2, 0.3)]
    found = []
    for _ in range(2):  # two starts
        study = open_study(tmp_path, config_of(space, searcher="grid"))
        found += [trained(study, 0.5).params for _ in range(3)]

    assert [(one["model.num_mixtures"], one["model.l2"]) for one in found] == expected
    assert study.next() is None


def test_a_grid_ends_early_where_the_budget_does(tmp_path: Path) -> None:
    study = open_study(tmp_path, config_of(INVALID, searcher="grid", budget={"trials": 1}))

    assert [study.next() is None for _ in range(2)] == [False, True]


def test_what_to_start_with_comes_first_and_what_is_left_out_is_chosen(tmp_path: Path) -> None:
    first = [{"model.num_mixtures": 5, "optimizer.learning_rate": 0.5}, {"model.num_mixtures": 6}]
    study = open_study(tmp_path, config_of(start_with=first))

    one, two, three = (started(study).params for _ in range(3))

    assert one == first[0]
    assert two["model.num_mixtures"] == 6
    assert 1e-4 <= two["optimizer.learning_rate"] <= 1
    assert three["model.num_mixtures"] not in (5, 6)


def test_the_budget_ends_a_search(tmp_path: Path) -> None:
    study = open_study(tmp_path, config_of(budget={"trials": 2}))

    assert [study.next() is None for _ in range(3)] == [False, False, True]


def end_in_the_dashboard(folder: Path, number: int) -> None:
    optuna_study(folder).tell(number, state=TrialState.FAIL)


def test_a_trial_that_was_ended_in_the_dashboard_is_to_stop_and_keeps_that_end(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for _ in range(3):
        started(study)
    study.report(1, 1, {"gap": 0.5})
    study.tell(2, "failed")
    end_in_the_dashboard(tmp_path, 1)

    assert study.stop_requests() == [1]
    study.report(1, 2, {"gap": 0.75})
    record = study.tell(1, "completed")
    assert (record.status, record.scores) == ("stopped", {1: 0.5})
    assert [one.number for one in study.records() if one.status == "running"] == [0]


TWO_FAMILIES = {
    "model.name": {"choice": ["moe", "netvlad"]},
    "model.num_clusters": {"choice": [2, 4], "when": {"model.name": "netvlad"}},
    "optimizer.learning_rate": {"loguniform": [0.01, 1.0]},
}


def earlier(number: int, status: TrialStatus = "completed", score: float | None = 0.5, **params: Any) -> TrialRecord:
    keys = {"rate": "optimizer.learning_rate", "name": "model.name", "clusters": "model.num_clusters", "l2": "model.l2"}
    by_key = {keys[name]: value for name, value in params.items()}
    return TrialRecord(number, by_key, status, scores={} if score is None else {1: 0.25, 2: score})


EARLIER = [
    earlier(0, name="moe", rate=0.5),
    earlier(1, "pruned", name="netvlad", clusters=4, rate=0.1, l2=3),  # what is not searched now does no harm
    earlier(2, "stopped", name="moe", clusters=7, rate=1.0),  # the condition does not hold
    earlier(3, name="netvlad", rate=0.1),  # a key is missing
    earlier(4, name="netvlad", clusters=3, rate=0.1),
    earlier(5, name="moe", rate=0.001),
    earlier(6, name="logistic", rate=0.1),
    earlier(7, "failed", name="moe", rate=0.1),
    earlier(8, "running", name="moe", rate=0.1),
    earlier(9, score=None, name="moe", rate=0.1),
]


def test_a_search_learns_from_earlier_trials_that_lie_in_its_space_once(tmp_path: Path) -> None:
    config = config_of(TWO_FAMILIES, searcher="tpe", budget={"trials": 1})

    assert open_study(tmp_path, config).add_earlier(EARLIER, "there") == 3
    study = open_study(tmp_path, config)
    assert study.add_earlier(EARLIER, "there") == 0

    trials = optuna_study(tmp_path).trials
    assert [(trial.state.name, trial.value) for trial in trials] == [
        ("COMPLETE", 0.5),
        ("PRUNED", 0.5),
        ("PRUNED", 0.5),
    ]
    assert trials[1].params == {"model.name": "netvlad", "model.num_clusters": 4, "optimizer.learning_rate": 0.1}
    assert study.records() == []
    assert [study.next() is None for _ in range(2)] == [False, True]  # the earlier ones are not in the budget


def test_earlier_trials_come_beside_what_to_start_with(tmp_path: Path) -> None:
    study = open_study(tmp_path, config_of(TWO_FAMILIES, searcher="tpe", start_with=[{"model.name": "netvlad"}]))

    study.add_earlier(EARLIER, "there")

    assert started(study).params["model.name"] == "netvlad"


def test_another_source_is_learned_from_too(tmp_path: Path) -> None:
    study = open_study(tmp_path, config_of(TWO_FAMILIES, searcher="tpe"))

    assert [study.add_earlier(EARLIER[:1], source) for source in ("here", "there", "here")] == [1, 1, 0]


@pytest.mark.parametrize("searcher", ["tpe", "gp"])
def test_a_front_has_two_values_a_trial(tmp_path: Path, searcher: str) -> None:
    study = open_study(tmp_path, config_of(searcher=searcher, pareto="macs", **FIFO), macs_of)
    statuses: list[TrialStatus] = ["completed", "stopped", "failed", "completed"]
    for number, status in enumerate(statuses):
        started(study)
        if number < 3:
            study.report(number, 1, {"gap": 0.25})
        study.tell(number, status)
    assert study.next() is not None

    records, metric, costs = read_records(tmp_path)
    expected = [[0.25, float(record.params["model.num_mixtures"])] for record in records[:2]]
    assert (metric, costs) == ("gap", ["macs"])
    assert [trial.values for trial in optuna_study(tmp_path).trials][:5] == [*expected, None, None, None]


def test_a_gaussian_process_whose_best_guess_is_over_a_limit_looks_elsewhere(tmp_path: Path) -> None:
    config = config_of({"model.num_mixtures": {"integer": [1, 8]}}, searcher="gp", limits={"macs": 4})
    study = open_study(tmp_path, config, macs_of)

    for _ in range(3):  # the more the better, so that 8 would be best
        suggestion = started(study)
        study.report(suggestion.number, 1, {"gap": suggestion.params["model.num_mixtures"] / 10})
        study.tell(suggestion.number, "completed")


def test_values_that_optuna_does_not_know_come_back_as_they_were(tmp_path: Path) -> None:
    space = {
        "model.low_rank": {"choice": [None, 4]},
        "model": {"choice": [{"name": "moe", "num_mixtures": 2}, {"name": "moe", "l2": 0.5}]},
        "optimizer.no_weight_decay": {"choice": [["a", "b"]]},
        "optimizer.name": {"choice": ["adamw"]},
    }
    study = open_study(tmp_path, config_of(space, searcher="grid", budget={"trials": 4}))
    found = [started(study).params for _ in range(4)]

    again = [started(open_study(tmp_path, config_of(space, searcher="grid"))).params]

    assert [record.params for record in study.records()] == found
    assert again[0] == found[0]
    expected = [
        dict(zip(space, (low_rank, model, ["a", "b"], "adamw"), strict=True))
        for model in copy.deepcopy(space["model"]["choice"])
        for low_rank in (None, 4)
    ]
    assert sorted(map(repr, map(sorted_items, found))) == sorted(map(repr, map(sorted_items, expected)))


def sorted_items(params: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(params.items())


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_folder_without_a_search_is_told(tmp_path: Path, is_empty: bool) -> None:
    if is_empty:
        (tmp_path / STUDY_FILE).touch()

    with pytest.raises(ConfigError, match=r"no search: study.db"):
        read_records(tmp_path)


def test_the_seconds_of_a_search_are_kept(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    assert study.wall_s == 0

    study.set_wall(12.5)

    assert open_study(tmp_path).wall_s == 12.5


def test_a_table_can_be_drawn_while_trials_report(tmp_path: Path) -> None:
    study, failures, is_over = open_study(tmp_path), [], threading.Event()
    started(study)

    def look() -> None:
        try:
            while not is_over.is_set():
                study.records()
                study.stop_requests()
                read_records(tmp_path)  # as a command beside the search does
        except BaseException as error:  # noqa: BLE001 - carried over to the test
            failures.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for epoch in range(1, 6):
        study.report(0, epoch, {"gap": epoch / 100})
    study.tell(0, "completed")
    is_over.set()
    thread.join()

    assert failures == []
    assert study.record(0).scores == {epoch: epoch / 100 for epoch in range(1, 6)}


def test_no_configuration_is_tried_twice_and_a_space_ends_behind_its_last(tmp_path: Path) -> None:
    space = {"model.num_mixtures": {"choice": [1, 2, 3]}, "optimizer.learning_rate": {"choice": [0.1, 0.2]}}
    study = open_study(tmp_path, config_of(space, searcher="tpe", budget={"trials": None, "epochs": 100}))

    found = []
    while (suggestion := study.next()) is not None:
        found.append(tuple(suggestion.params.values()))
        study.report(suggestion.number, 1, {"gap": 0.5})
        study.tell(suggestion.number, "completed")

    assert sorted(found) == [(mixtures, rate) for mixtures in (1, 2, 3) for rate in (0.1, 0.2)]
    repeated = [record for record in study.records() if record.status == "invalid"]
    assert all(record.cause.startswith("the same as trial ") for record in repeated)
    assert len(repeated) <= 3 * len(found)
