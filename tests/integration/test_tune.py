"""Searches on one local cluster: what they leave, what becomes of trials that fail, wait and take others' weights."""

from __future__ import annotations

import contextlib
import csv
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from mlflow import MlflowClient
from ray.util.placement_group import placement_group_table

from tests.integration.conftest import NUM_CLASSES, NUM_EPOCHS, SPACE, MakeSearch
from yt8m_ray.artifacts.checkpoint import load_model, read_tensors
from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.config.document import load_document, override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.runs import PARENT_TAG
from yt8m_ray.tuning import winner
from yt8m_ray.tuning.dashboard import start_dashboard
from yt8m_ray.tuning.records import TrialRecord
from yt8m_ray.tuning.search import SearchResult, earlier_records, search
from yt8m_ray.tuning.study_file import read_records

NUM_EPOCHS_IN_ALL = 12
"""Enough that one trial is stopped by hand before the budget ends another."""


@dataclass(frozen=True)
class Story:
    """A search of six trials, what was on the machine before and after, and the same search once more."""

    config: TuneConfig
    result: SearchResult
    again: SearchResult
    temporary: tuple[set[str], set[str]]
    actors: tuple[list[str], list[str]]


@pytest.fixture(scope="module")
def story(make_search: MakeSearch) -> Story:
    config = make_search("story", budget={"trials": 6})
    before, actors = _temporary_files(), _actors()
    result = search(config)
    again = search(config)
    time.sleep(1)  # Ray ends processes in the background
    return Story(config, result, again, (before, _temporary_files()), (actors, _actors()))


def _temporary_files() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).iterdir()}


def _actors() -> list[str]:
    """Returns the classes of the living actors, but for those that Ray Data has once in a cluster."""
    own = ("AutoscalingCoordinator", "datasets_stats_actor")
    actors = ray._private.state.actors().values()
    return [one["ActorClassName"] for one in actors if one["State"] == "ALIVE" and one["Name"] not in own]


def test_as_many_trials_as_the_budget_has_end_and_bad_ones_are_stopped_early(story: Story) -> None:
    statuses = [record.status for record in story.result.records]

    assert len(statuses) == 6
    assert set(statuses) == {"completed", "pruned"}
    for record in story.result.records:
        assert record.num_epochs == NUM_EPOCHS or record.status == "pruned"


def test_the_best_trial_is_the_one_with_the_highest_score(story: Story) -> None:
    scores = {record.number: max(record.scores.values()) for record in story.result.records}

    assert scores[story.result.best.number] == max(scores.values())


def test_the_best_config_is_a_plain_train_config_with_what_was_chosen(story: Story) -> None:
    config = load_document(story.result.folder / "best" / "config.yaml", TrainConfig)

    chosen = (config.model.num_mixtures, config.optimizer.learning_rate)  # type: ignore[attr-defined]
    assert chosen == tuple(story.result.best.params.values())
    assert (config.output, config.run.name) == (story.config.output, "story-best")


def test_the_best_checkpoint_is_the_best_epoch_of_the_best_trial(story: Story) -> None:
    place = story.result.folder / "best" / "checkpoint"

    metrics = read_manifest(place, kind="checkpoint")["metrics"]
    model, config = load_model(place)

    assert metrics["validation/gap"] == pytest.approx(story.result.best.best_score)  # type: ignore[index]
    assert metrics["epoch"] == story.result.best.best_epoch  # type: ignore[index]
    assert model.num_classes == config.data.num_classes == NUM_CLASSES


def test_only_the_best_trial_keeps_its_checkpoints(story: Story) -> None:
    kept = {path.parent.name for path in (story.result.folder / "trials").glob("*/epoch_*")}

    assert kept == {f"trial_{story.result.best.number:04d}"}


def test_the_table_has_a_row_for_each_trial_with_what_was_chosen(story: Story) -> None:
    with (story.result.folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert [int(row["number"]) for row in rows] == list(range(6))
    assert [float(row["optimizer.learning_rate"]) for row in rows] == [
        record.params["optimizer.learning_rate"] for record in story.result.records
    ]


def test_there_is_a_report_with_pictures(story: Story) -> None:
    report = story.result.folder / "report"

    assert (report / "report.html").stat().st_size > 10_000
    assert len(list(report.glob("*.png"))) >= 3


def test_mlflow_has_a_run_with_a_nested_one_for_each_trial(story: Story) -> None:
    client = MlflowClient(story.result.tracking_uri)
    parent = client.get_run(story.result.mlflow_run_id)

    children = client.search_runs([parent.info.experiment_id], f"tags.`{PARENT_TAG}` = '{story.result.mlflow_run_id}'")

    statuses = {child.data.tags["yt8m_ray.trial"]: child.data.tags["yt8m_ray.status"] for child in children}
    assert statuses == {f"trial_{record.number:04d}": record.status for record in story.result.records}
    by_name = {child.info.run_name: child for child in children}
    for record in story.result.records:
        run = by_name[f"trial_{record.number:04d}"]
        assert float(run.data.params["optimizer.learning_rate"]) == record.params["optimizer.learning_rate"]
        curve = client.get_metric_history(run.info.run_id, "validation/gap")
        assert [point.value for point in curve[: record.num_epochs]] == list(record.scores.values())
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/gap"] == story.result.best.best_score
    artifacts = {file.path for file in client.list_artifacts(story.result.mlflow_run_id)}
    assert artifacts >= {"report", "trials.csv", "best"}


def test_the_same_search_again_trains_nothing(story: Story) -> None:
    assert story.again.records == story.result.records
    assert story.again.mlflow_run_id == story.result.mlflow_run_id


def test_searches_leave_no_process_no_placement_group_and_no_file_elsewhere(story: Story) -> None:
    before, after = story.temporary
    groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]

    # torch makes a folder of that name once, where its counting of MACs is imported first.
    assert {name for name in after - before if not name.startswith("torchinductor_")} == set()
    assert groups == []
    assert Counter(story.actors[1]) - Counter(story.actors[0]) == Counter()  # those of earlier tests may have ended
    assert not list(story.result.folder.glob(".*"))
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


@pytest.mark.soak
def test_a_search_on_one_machine_is_the_same_again(story: Story, make_search: MakeSearch) -> None:
    result = search(make_search("story_again", budget={"trials": 2}))

    assert [record.params for record in result.records] == [record.params for record in story.result.records[:2]]
    assert [record.scores for record in result.records] == [record.scores for record in story.result.records[:2]]


def test_trials_that_fail_or_cost_too_much_are_noted_and_the_others_go_on(make_search: MakeSearch) -> None:
    space = {"model.num_mixtures": {"choice": [1, 16]}, "optimizer.learning_rate": {"choice": [1e36, 0.02]}}
    tune = {"limits": {"macs": 2000}, "searcher": {"name": "grid"}, "budget": {"trials": None}}

    result = search(make_search("failing", space, num_epochs=1, **tune))

    found = {tuple(record.params.values()): record for record in result.records}
    assert found[1, 0.02].status == "completed"
    assert found[1, 1e36].status == "failed"
    assert "step 2: the loss is" in found[1, 1e36].cause
    assert [found[16, rate].status for rate in (1e36, 0.02)] == ["infeasible"] * 2
    assert found[16, 0.02].cause.startswith("macs 6,")
    assert {path.name for path in (result.folder / "trials").iterdir()} == {"trial_0000", "trial_0001"}


def test_a_search_of_failures_alone_says_why(make_search: MakeSearch, tmp_path: Path) -> None:
    record = TrialRecord(0, {}, "failed", cause="the loss is inf")

    with pytest.raises(ValueError, match=r"no trial has ended with a score.*; 1 were begun: the loss is inf"):
        winner.write_best(tmp_path, make_search("failures"), [record])


def test_a_trial_can_be_stopped_on_the_page_and_the_budget_of_epochs_ends_the_search(make_search: MakeSearch) -> None:
    budget = {"trials": None, "epochs": NUM_EPOCHS_IN_ALL}
    config = make_search("stopped", num_epochs=400, scheduler={"name": "fifo"}, budget=budget)
    results: list[SearchResult] = []
    thread = threading.Thread(target=lambda: results.append(search(config)))
    thread.start()
    folder = Path(config.output) / "stopped"
    _wait_until((folder / "study.db").exists)

    with contextlib.closing(start_dashboard(folder)) as dashboard:
        _wait_until(lambda: any(one.scores for one in read_records(folder)[0]))
        place = f"{dashboard.url}api/trials/1/tell"
        request = urllib.request.Request(place, b'{"state": "Fail"}', {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200
    thread.join(120)

    assert not thread.is_alive()
    records = results[0].records
    assert {record.status for record in records} == {"stopped"}
    assert records[0].num_epochs < NUM_EPOCHS_IN_ALL == sum(record.num_epochs for record in records)
    assert records[-1].cause == f"the budget of {NUM_EPOCHS_IN_ALL} epochs is spent"
    assert results[0].best.num_epochs > 0


def test_an_earlier_search_is_read_from_its_folder_and_from_mlflow(story: Story) -> None:
    config = override(story.config, {"tracking.uri": story.result.tracking_uri})

    from_folder = earlier_records(str(story.result.folder), config)
    from_mlflow = earlier_records(f"mlflow:{story.result.mlflow_run_id}", config)

    assert from_folder == story.result.records
    assert [(one.params, one.status) for one in from_mlflow] == [(one.params, one.status) for one in from_folder]
    assert [one.best_score for one in from_mlflow] == [one.best_score for one in from_folder]


def test_the_winner_is_registered_under_an_alias(story: Story) -> None:
    uri = winner.register(
        story.result.folder, story.result.tracking_uri, story.result.mlflow_run_id, name="moe", alias="champion"
    )

    version = MlflowClient(story.result.tracking_uri).get_model_version_by_alias("moe", "champion")
    stored = Path(version.source.removeprefix("file://")) / "checkpoint"
    assert uri == "models:/moe@champion"
    assert read_manifest(stored, kind="checkpoint") == read_manifest(
        story.result.folder / "best" / "checkpoint", kind="checkpoint"
    )


@pytest.mark.soak
def test_a_search_learns_from_an_earlier_one(story: Story, make_search: MakeSearch) -> None:
    sources = [str(story.result.folder), f"mlflow:{story.result.mlflow_run_id}"]
    config = make_search("warm", num_epochs=1, warm_start=sources, budget={"trials": 1}, searcher={"num_random": 1})

    result = search(config)

    (record,) = result.records  # those of the earlier search are not its own
    best = story.result.best.params["optimizer.learning_rate"]
    assert 0.2 < record.params["optimizer.learning_rate"] / best < 5  # and not drawn at random


@pytest.mark.soak
def test_the_winner_is_trained_at_full_length(story: Story) -> None:
    result = winner.retrain(story.result.folder)

    weights = read_tensors(result.checkpoint / "model.safetensors")
    stored = read_tensors(story.result.folder / "best" / "checkpoint" / "model.safetensors")
    assert result.run_path.name == "story-best"
    assert stored.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in stored.items())


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (
            {"max_concurrent": 40},
            r"tune.max_concurrent: 40 trials of 1 worker and two .* 4 logical CPUs .* 5 do",
        ),
        ({"warm_start": ["nowhere"]}, r"nowhere: no search: study.db is missing"),
    ],
)
def test_what_cannot_be_run_is_refused(make_search: MakeSearch, tune: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(make_search("refused", budget={"trials": 1}, **tune))


def test_a_search_needs_something_to_compare_trials_by(make_search: MakeSearch) -> None:
    config = make_search("unmeasured")

    with pytest.raises(ConfigError, match=r"data\.validation: trials are compared by it"):
        search(config.model_copy(update={"data": config.data.model_copy(update={"validation": None})}))


def test_another_space_in_the_same_folder_is_refused(story: Story, make_search: MakeSearch) -> None:
    with pytest.raises(ConfigError, match=r"another space \(model.num_mixtures\); choose another run.name"):
        search(make_search("story", {**SPACE, "model.num_mixtures": {"choice": [1, 2, 4]}}))


def test_other_data_or_another_model_in_the_same_folder_is_refused(story: Story, make_search: MakeSearch) -> None:
    config = make_search("story")
    other = override(config, {"run.seed": config.run.seed + 7})

    with pytest.raises(
        ConfigError, match=rf"^run\.seed: {config.run.seed} in .*config\.yaml, now {other.run.seed}\ntrials of"
    ):
        search(other)


def _wait_until(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
