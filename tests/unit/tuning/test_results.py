"""The table of a search's trials."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from yt8m_ray.tuning.records import TrialRecord, write_trials

MOE = TrialRecord(
    number=0,
    params={"model.name": "moe", "model.num_mixtures": None},
    status="completed",
    scores={1: 0.5, 2: 0.75, 3: 0.7},
    metrics={"gap": 0.75, "perr": 0.25},
    costs={"int8_bytes": 1000.0},
    run_name="trial_0000",
    seconds=12.3456,
    started_s=0.0,
    ended_s=86400.0,
)
FAILED = TrialRecord(
    number=1,
    params={"model.name": "netvlad", "loss": {"name": "b", "a": 1}},
    status="failed",
    cause='loss is "nan", at step 3',
)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_holds_the_metrics_of_the_best_epoch(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.csv", [MOE], "gap")

    (row,) = rows_of(tmp_path / "trials.csv")
    assert (row["gap"], row["best_epoch"], row["num_epochs"], row["perr"]) == ("0.75", "2", "3", "0.25")
    assert (row["int8_bytes"], row["seconds"], row["run_name"]) == ("1000.0", "12.346", "trial_0000")


def test_times_are_utc(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.csv", [MOE], "gap")

    (row,) = rows_of(tmp_path / "trials.csv")
    assert (row["started"], row["ended"]) == ("1970-01-01T00:00:00+00:00", "1970-01-02T00:00:00+00:00")


def test_trials_stand_by_number_with_a_column_for_every_searched_key(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.csv", [FAILED, MOE], "gap")

    first, second = rows_of(tmp_path / "trials.csv")
    assert [first["model.name"], second["model.name"]] == ["moe", "netvlad"]
    assert second["loss"] == '{"a": 1, "name": "b"}'


def test_a_key_that_was_not_chosen_differs_from_a_null(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.csv", [MOE, FAILED], "gap")

    first, second = rows_of(tmp_path / "trials.csv")
    assert [first["model.num_mixtures"], second["model.num_mixtures"]] == ["null", ""]


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.csv", [MOE, FAILED], "gap")

    failed = rows_of(tmp_path / "trials.csv")[1]
    assert math.isnan(FAILED.videos_per_s)
    assert [failed[name] for name in ("gap", "best_epoch", "perr", "int8_bytes", "videos_per_s", "ended")] == [""] * 6
    assert failed["cause"] == 'loss is "nan", at step 3'


def test_a_table_of_no_trials_has_its_header(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.csv", [], "gap")

    assert (tmp_path / "trials.csv").read_text().startswith("number,status,gap,")
    assert [path.name for path in tmp_path.iterdir()] == ["trials.csv"]
