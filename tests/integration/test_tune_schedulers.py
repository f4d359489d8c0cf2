"""Searches whose trials wait, take others' weights, or have several workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.integration.conftest import NUM_EPOCHS, MakeSearch
from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.tuning.search import search
from yt8m_ray.tuning.trial import SEARCH_KEY, TrialFacts, TrialRunner


class DonorTrial(TrialRunner):
    trial_name = "trial_0000"


class HeirTrial(TrialRunner):
    trial_name = "trial_0001"


def test_population_based_training_moves_the_worst_trial_to_the_place_of_the_best(make_search: MakeSearch) -> None:
    space = {"optimizer.learning_rate": {"choice": [1e-6, 0.05]}}
    scheduler = {"name": "pbt", "perturb": ["optimizer.learning_rate"], "quantile": 0.5, "synchronous": True}
    starts = [{"optimizer.learning_rate": rate} for rate in (1e-6, 0.05)]

    result = search(
        make_search("population", space, scheduler=scheduler, start_with=starts, budget={"trials": 2}, max_concurrent=2)
    )

    heir = result.records[0]
    assert heir.run_name.startswith("trial_0000.")  # a run of its own for each move
    assert heir.scores[1] < 0.3 < 0.6 < heir.scores[NUM_EPOCHS]
    assert list(heir.scores) == [1, 2, 3]


def test_a_trial_that_takes_the_place_of_another_has_its_weights_and_goes_on_behind_its_epoch(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    config = make_search("donor")
    facts = TrialFacts(
        base=config.base.model_dump(mode="json") | {"tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"}},
        folder=str(tmp_path),
        max_epochs=None,
        metric="gap",
        cpus_per_worker=0.5,
        mlflow_run_id="",
    )
    donor = DonorTrial({"optimizer.learning_rate": 0.05, SEARCH_KEY: vars(facts)})
    heir = HeirTrial({"optimizer.learning_rate": 1e-9, SEARCH_KEY: vars(facts)})
    donor.step()
    donor.save_checkpoint(str(tmp_path))
    given = {path.parent.name: path for path in (tmp_path / "donors").glob("*/*/model.safetensors")}
    weights = read_tensors(given["trial_0000-epoch_0001_step_000000012"])
    donor.stop()

    heir.load_checkpoint(str(tmp_path))
    result = heir.step()
    heir.stop()

    assert result["epoch"] == 2
    assert result["run_name"] == "trial_0001.1"
    (own,) = (tmp_path / "trials" / "trial_0001.1").glob("epoch_0002_*")
    for name, tensor in read_tensors(own / "model.safetensors").items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=0)


@pytest.mark.soak
def test_hyperband_pauses_trials_and_goes_on_with_the_best(make_search: MakeSearch) -> None:
    scheduler = {"name": "hyperband", "reduction_factor": 2}

    result = search(make_search("hyperband", num_epochs=4, scheduler=scheduler, budget={"trials": 4}))

    assert {record.status for record in result.records} == {"completed", "pruned"}
    epochs = sorted(record.num_epochs for record in result.records)
    assert epochs[0] < 4 == epochs[-1]


@pytest.mark.soak
def test_the_median_rule_stops_what_falls_behind(make_search: MakeSearch) -> None:
    space = {"optimizer.learning_rate": {"choice": [0.05, 0.04, 1e-6]}}

    result = search(
        make_search(
            "median",
            space,
            scheduler={"name": "median", "min_trials": 2},
            searcher={"name": "grid"},
            budget={"trials": None},
        )
    )

    assert [record.status for record in result.records] == ["completed", "completed", "pruned"]


@pytest.mark.soak
def test_a_front_has_the_best_score_for_each_cost(make_search: MakeSearch) -> None:
    config = make_search("front", num_epochs=1, pareto="int8_bytes", scheduler={"name": "fifo"}, budget={"trials": 3})

    result = search(config)

    assert all(record.status == "completed" and record.costs["int8_bytes"] > 0 for record in result.records)
    assert (result.folder / "report" / "report.html").exists()


@pytest.mark.soak
def test_several_workers_train_a_trial(make_search: MakeSearch) -> None:
    config = make_search("two_workers", num_epochs=1, budget={"trials": 1})

    result = search(config.model_copy(update={"scaling": config.scaling.model_copy(update={"num_workers": 2})}))

    assert result.best.num_epochs == 1
    assert "2 workers on cpu" in (result.folder / "trials" / "trial_0000" / "train.log").read_text()
