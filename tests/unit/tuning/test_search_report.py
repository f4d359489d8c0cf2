"""The report of a search: what it says, and that it has something to say of any search."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from yt8m_ray.config.space import Parameter
from yt8m_ray.tuning.records import TrialRecord, TrialStatus
from yt8m_ray.tuning.report.dimensions import dimensions_of
from yt8m_ray.tuning.report.importance import MIN_TRIALS, measure_importance
from yt8m_ray.tuning.report.search_report import write_report

LOSSES = [{"name": "cross_entropy", "smoothing": 0.0}, {"name": "cross_entropy", "smoothing": 0.1}]
PICTURES = ["epochs.png", "front_int8_bytes.png", "importance.png", "parallel.png", "progress.png"]


def trial(number: int, score: float = 0.5, status: TrialStatus = "completed", **params: Any) -> TrialRecord:
    return TrialRecord(
        number=number,
        params={"model.name": "moe", **params},
        status=status,
        scores={1: score / 2, 2: score},
        metrics={"gap": score, "hit_at_1": 0.875},
        costs={"int8_bytes": 1e6 * (1 + number % 5), "macs": 2e6},
        seconds=1800.0,
        started_s=1e9 + 60 * number,
        ended_s=1e9 + 60 * number + 50,
    )


def search(num_trials: int = 24) -> list[TrialRecord]:
    """Returns trials whose score is decided by the learning rate alone, with a key that half of them have."""
    generator = np.random.default_rng(0)
    records = []
    for number in range(num_trials):
        rate = float(10 ** generator.uniform(-4, -1))
        others = {"model.num_mixtures": int(generator.integers(1, 9))} if number % 2 else {}
        params = {"optimizer.learning_rate": rate, "loss": LOSSES[generator.integers(2)], "data.x": ["rgb"], **others}
        score = 0.8 - 0.05 * (math.log10(rate) + 2.5) ** 2
        records.append(trial(number, score, "pruned" if score < 0.76 else "completed", **params))
    return records


def failed(number: int) -> TrialRecord:
    return TrialRecord(number, {"loss": LOSSES[0]}, "failed", cause="loss is not finite <b>")


def text_of(folder: Path, records: list[TrialRecord], **options: Any) -> str:
    document = write_report(folder, records, title="a search", metric="gap", **options)
    assert document == folder / "report" / "report.html"
    # A picture's base64 may spell anything.
    assert "http" not in re.sub(r'src="data:image/png;base64,[^"]*"', "", document.read_text())
    return (folder / "report" / "report.md").read_text()


def pictures_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "report").glob("*.png"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    over = replace(trial(25, status="infeasible"), scores={}, metrics={}, cause="int8_bytes 9 > 5")
    running = replace(trial(26, 0.99, "running"), ended_s=None)
    text_of(folder, [*search(), failed(24), over, running], facts=[("searcher", "tpe")])
    return folder


def test_it_has_every_picture_inside(folder: Path) -> None:
    document = (folder / "report" / "report.html").read_text()

    assert pictures_of(folder) == PICTURES
    assert len(re.findall('src="data:image/png;base64,', document)) == len(PICTURES)


def test_it_says_what_became_of_the_trials_and_what_they_took(folder: Path) -> None:
    text = (folder / "report" / "report.md").read_text()

    (counts,) = re.findall(r"\| trials \| 27: (.*) \|", text)
    assert re.fullmatch(r"1 running, \d+ completed, \d+ pruned, 1 failed, 1 infeasible", counts)
    assert "| epochs of training, all trials together | 50 |" in text  # two of each that was trained, or is
    assert "| hours of training, all trials together | 13.00 |" in text
    assert "| searcher | tpe |" in text


def test_the_best_trial_comes_first_and_one_that_runs_is_not_it(folder: Path) -> None:
    best = max(search(), key=lambda record: record.best_score)
    text = (folder / "report" / "report.md").read_text()

    assert f"Trial #{best.number}, completed, at epoch 2 of 2." in text
    table = text[text.index("## Trials\n") :]
    assert re.findall(r"^\| (#\d+) \|", table, re.M)[0] == f"#{best.number}"


def test_causes_are_told_as_text_and_failures_come_before_what_was_not_trained(folder: Path) -> None:
    text = (folder / "report" / "report.md").read_text()

    table = text[text.index("## Trials without a result") :]
    assert re.findall(r"^\| #\d+ \| (\w+)", table, re.M) == ["failed", "infeasible"]
    assert "int8_bytes 9 > 5" in table
    assert "<b>" not in (folder / "report" / "report.html").read_text()


def test_the_front_is_a_table_too(folder: Path) -> None:
    text = (folder / "report" / "report.md").read_text()

    front = text[text.index("## The front of GAP and size") :].partition("## Trials")[0]
    scores = [float(score) for score in re.findall(r"^\| #\d+ \| (0\.\d+)", front, re.M)]
    sizes = [float(size) for size in re.findall(r"^\| #\d+ \| 0\.\d+ \| ([\d.]+)", front, re.M)]
    assert scores == sorted(scores, reverse=True) and sizes == sorted(sizes, reverse=True)
    assert scores[0] == pytest.approx(max(record.best_score for record in search()), abs=1e-4)


def test_a_front_of_another_cost_is_drawn_beside_that_of_the_size(tmp_path: Path) -> None:
    text_of(tmp_path, [trial(0), trial(1, 0.6)], pareto="macs")

    assert {"front_int8_bytes.png", "front_macs.png"} <= set(pictures_of(tmp_path))


@pytest.mark.parametrize(
    "records",
    [
        [],
        [trial(0)],
        [failed(0), failed(1)],
        [replace(failed(0), scores={1: 0.25})],
        [replace(trial(0, status="running"), ended_s=None)],
        [trial(number) for number in range(20)],
        [replace(trial(number, 0.0), started_s=None, ended_s=None, costs={}) for number in range(2)],
        [trial(number, 0.1 * number, a=[LOSSES[number]], b=LOSSES[number], c=bool(number)) for number in range(2)],
        [trial(number, 0.8 - 0.7 * (number == 3), key=number) for number in range(9)],
    ],
    ids=["none", "one", "failed", "failed later", "running", "equal", "no times", "sections", "one far below"],
)
def test_there_is_a_report_of_any_search(tmp_path: Path, records: list[TrialRecord]) -> None:
    assert f"| trials | {len(records)}" in text_of(tmp_path, records)


def test_importance_is_left_out_where_there_are_too_few_trials(tmp_path: Path) -> None:
    text = text_of(tmp_path, search(MIN_TRIALS - 1))

    assert f"{MIN_TRIALS} trials that were completed or pruned would be needed to tell; there are 14." in text
    assert "importance.png" not in pictures_of(tmp_path)


def test_importance_says_how_it_was_measured(folder: Path) -> None:
    text = (folder / "report" / "report.md").read_text()

    assert "PED-ANOVA (Optuna's, with conditional keys) over 24 completed and pruned trials" in text
    assert "whether a trial is among the best 6." in text
    assert "Compared with random orders of the same scores, " in text


def test_the_key_that_decides_the_score_is_told_from_chance_and_the_others_are_not() -> None:
    records = search(60)

    found = measure_importance(records, dimensions_of(records))

    assert [one.key for one in found if one.is_told] == ["optimizer.learning_rate"]
    assert sum(one.share for one in found) == pytest.approx(1)
    assert {one.key: one.num_trials for one in found}["model.num_mixtures"] == 30


def test_trials_that_a_user_stopped_do_not_count_for_importance() -> None:
    records = [replace(record, status="stopped") for record in search(60)]

    assert measure_importance(records, dimensions_of(records)) == []


def test_a_space_says_how_a_key_is_laid_out() -> None:
    records = [trial(number, rate=0.001 * (1 + number)) for number in range(2)]

    (_, guessed), (_, known) = (
        dimensions_of(records, space) for space in (None, {"rate": Parameter(loguniform=(1e-4, 1e-2))})
    )

    assert guessed.distribution == FloatDistribution(0.001, 0.002)
    assert known.distribution == FloatDistribution(1e-4, 1e-2, log=True)


def test_numbers_of_many_sizes_are_laid_out_by_decade_and_whole_ones_stay_whole() -> None:
    records = [trial(number, size=10 ** (1 + number)) for number in range(3)]

    assert dimensions_of(records)[1].distribution == IntDistribution(10, 1000, log=True)


def test_numbers_to_choose_from_stand_in_their_order() -> None:
    space = {"size": Parameter(choice=[512, 1024, 256])}

    _, size = dimensions_of([trial(0, size=1024)], space)

    assert size.distribution == CategoricalDistribution((256, 512, 1024))
    assert size.stored(1024.0) == 1024


def test_sections_are_named_by_what_they_differ_in() -> None:
    records = [trial(number, loss={**LOSSES[number], "scale": 1}) for number in range(2)]

    (_, loss) = dimensions_of(records)

    assert loss.distribution == CategoricalDistribution(("cross_entropy, smoothing 0", "cross_entropy, smoothing 0.1"))
    assert loss.stored(records[1].params["loss"]) == "cross_entropy, smoothing 0.1"


def test_texts_that_would_look_the_same_are_numbered() -> None:
    records = [trial(number, path="x" * 60 + str(number)) for number in range(2)]

    (_, path) = dimensions_of(records)

    assert [path.stored(record.params["path"])[:4] for record in records] == ["1: x", "2: x"]


def test_optunas_pictures_leave_the_settings_of_other_pictures_alone(tmp_path: Path) -> None:
    backend, settings = matplotlib.get_backend(), dict(matplotlib.rcParams)

    text_of(tmp_path, [trial(0), trial(1, 0.6, x=1)])

    assert (matplotlib.get_backend(), dict(matplotlib.rcParams)) == (backend, settings)
    assert pyplot.get_fignums() == []
