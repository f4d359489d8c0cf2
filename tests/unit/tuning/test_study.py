"""The life of a search's trials in its folder; each study is one of Optuna's in SQLite, and none trains anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.support.searches import FIFO, RANDOM, SPACE, config_of, no_costs, open_study, optuna_study, started, trained
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.tuning.records import TrialStatus
from yt8m_ray.tuning.study import SearchStudy, Suggestion
from yt8m_ray.tuning.study_file import STUDY_FILE, read_records


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchStudy]:
    """Returns (folder, study) with a trial of each status that ends a training, of one epoch, and one that runs."""
    folder = tmp_path_factory.mktemp("six")
    study = SearchStudy(folder / "new", RANDOM, no_costs)
    statuses: tuple[TrialStatus, ...] = ("completed", "pruned", "stopped", "failed", "invalid")
    for number, status in enumerate(statuses):
        assert started(study).number == number
        study.report(number, 1, {"gap": number / 10})
        study.tell(number, status, cause="a reason" if status == "failed" else "")
    started(study)
    return folder / "new", study


def test_a_trial_ends_in_optunas_state_of_its_status(six: tuple[Path, SearchStudy]) -> None:
    trials = optuna_study(six[0]).trials

    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "FAIL", "RUNNING"]
    assert [trial.value for trial in trials[:3]] == [0.0, 0.1, 0.2]


def test_a_record_says_how_a_trial_ended_and_why(six: tuple[Path, SearchStudy]) -> None:
    records = six[1].records()

    assert [record.status for record in records] == [
        *("completed", "pruned", "stopped", "failed", "invalid", "running"),
    ]
    assert [record.cause for record in records] == ["", "", "", "a reason", "", ""]
    assert [record.ended_s is None for record in records] == [False] * 5 + [True]


def test_the_folder_is_read_without_the_search(six: tuple[Path, SearchStudy]) -> None:
    assert repr(read_records(six[0])) == repr((six[1].records(), "gap", []))


def test_a_trial_keeps_its_first_end(six: tuple[Path, SearchStudy]) -> None:
    six[1].report(0, 2, {"gap": 0.9})
    six[1].note(0, cause="later")

    record = six[1].tell(0, "failed", cause="later")

    assert (record.status, record.cause, record.scores) == ("completed", "", {1: 0.0})


def test_all_metrics_of_the_best_epoch_are_kept(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    started(study)
    for epoch, (gap, perr) in enumerate([(0.25, 0.1), (0.75, 0.2), (0.5, 0.3)], start=1):
        study.report(0, epoch, {"gap": gap, "perr": perr})

    record = study.tell(0, "completed")

    assert (record.scores, record.metrics) == ({1: 0.25, 2: 0.75, 3: 0.5}, {"gap": 0.75, "perr": 0.2})
    assert (record.best_score, record.best_epoch, optuna_study(tmp_path).trials[0].value) == (0.75, 2, 0.75)


@pytest.mark.parametrize("metrics", [{"gap": float("nan")}, {"perr": 0.5}])
def test_an_epoch_without_a_score_is_left_out(tmp_path: Path, metrics: dict[str, float]) -> None:
    study = open_study(tmp_path)
    started(study)
    study.report(0, 1, metrics)

    record = study.tell(0, "completed")

    assert (record.status, record.scores) == ("completed", {})
    assert optuna_study(tmp_path).trials[0].state is TrialState.FAIL  # nothing to learn from


def test_a_metric_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    started(study)
    study.report(0, 1, {"gap": 0.5, "perr": float("nan")})

    assert study.record(0).metrics == {"gap": 0.5}


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path, searcher: str) -> None:
    config = config_of(searcher=searcher)
    whole = open_study(tmp_path / "whole", config)
    expected = [trained(whole).params for _ in range(4)]

    found = []
    for num_trials in (2, 2):
        study = open_study(tmp_path / "cut", config)
        found += [trained(study).params for _ in range(num_trials)]

    assert found == expected
    assert len({json.dumps(params) for params in found}) == 4


def test_what_runs_when_a_search_is_killed_comes_first_when_it_goes_on(tmp_path: Path) -> None:
    study = open_study(tmp_path / "cut")
    begun = [started(study) for _ in range(3)]
    study.report(1, 1, {"gap": 0.5})
    study.tell(1, "completed")
    uninterrupted = started(copy_of(tmp_path, "whole"))

    again = open_study(tmp_path / "cut")
    found = [started(again) for _ in range(3)]

    assert found[:2] == [Suggestion(one.number, one.params, is_continued=True) for one in (begun[0], begun[2])]
    assert found[2] == Suggestion(3, found[2].params)
    assert uninterrupted.params == begun[0].params
    again.report(0, 1, {"gap": 0.25})
    assert again.tell(0, "completed").status == "completed"


def copy_of(tmp_path: Path, name: str, config: TuneConfig = RANDOM) -> SearchStudy:
    (tmp_path / name).mkdir()
    (tmp_path / name / STUDY_FILE).write_bytes((tmp_path / "cut" / STUDY_FILE).read_bytes())
    return open_study(tmp_path / name, config)


def test_a_gaussian_process_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    config = config_of({"model.l2": {"uniform": [0, 1]}}, searcher="gp")
    study = open_study(tmp_path / "cut", config)
    for score in (0.25, 0.75):
        trained(study, score)
    again = copy_of(tmp_path, "again", config)

    assert started(again).params == started(study).params


@pytest.mark.parametrize("searcher", ["random", "tpe", "grid"])
def test_a_search_killed_while_it_measures_a_trial_measures_it_again(tmp_path: Path, searcher: str) -> None:
    space = {"model.num_mixtures": {"choice": [3, 2, 1]}} if searcher == "grid" else SPACE
    config = config_of(space, searcher=searcher, limits={"macs": 100}, budget={"trials": 1})
    measured: list[TrainConfig] = []

    def measure(config: TrainConfig) -> dict[str, float]:
        measured.append(config)
        if len(measured) == 1:
            raise KeyboardInterrupt
        return {"macs": 101.0 if len(measured) == 2 else 100.0}

    with pytest.raises(KeyboardInterrupt):
        open_study(tmp_path, config, measure).next()

    suggestion = started(open_study(tmp_path, config, measure))

    assert (suggestion.number, suggestion.is_continued) == (1, False)
    assert measured[1] == measured[0]
    assert read_records(tmp_path)[0][0].status == "infeasible"


def test_another_space_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    open_study(tmp_path)
    other = {**SPACE, "model.num_mixtures": {"integer": [1, 63]}, "model.l2": {"uniform": [0, 1]}}

    with pytest.raises(ConfigError, match=r"holds a search of another space \(model.l2, model.num_mixtures\); choose"):
        open_study(tmp_path, config_of(other))


@pytest.mark.parametrize("change", [{"metric": "perr"}, {"pareto": "macs", **FIFO}])
def test_another_metric_in_the_same_folder_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    open_study(tmp_path)

    with pytest.raises(ConfigError, match=r"^tune.metric, tune.pareto: .* holds a search for \['gap'\], now \['"):
        open_study(tmp_path, config_of(**change))


def test_what_may_change_when_a_search_goes_on(tmp_path: Path) -> None:
    trained(open_study(tmp_path, config_of(budget={"trials": 1})))

    study = open_study(tmp_path, config_of(searcher="tpe", budget={"trials": 2}))

    assert started(study).number == 1
    assert study.next() is None


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_bytes(b"no database, however long it is" * 100)

    with pytest.raises(ConfigError, match=r"study\.db: not a study of Optuna's: file is not a database"):
        read_records(tmp_path)
