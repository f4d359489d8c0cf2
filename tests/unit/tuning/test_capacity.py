"""How many trials have room; a reader takes a quarter of a CPU, and each trial has two."""

from __future__ import annotations

from typing import Any

import pytest

from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.driver.scaling import Node
from yt8m_ray.tuning.capacity import TRIAL_CPUS, Capacity, plan_trials

READER = 0.25


def plan(*nodes: tuple[float, float], scaling: dict[str, Any] | None = None, **tune: Any) -> Capacity:
    """Returns the room on nodes of (CPUs, GPUs)."""
    config = TuneConfig.model_validate(
        {
            "run": {"name": "s"},
            "data": {"features": {"rgb": 8}, "num_classes": 5},
            "model": {"name": "logistic"},
            "scaling": scaling or {},
            "tune": {"space": {"optimizer.learning_rate": {"uniform": [0.1, 1]}}, **tune},
        }
    )
    cluster = [Node(str(index), cpus, gpus) for index, (cpus, gpus) in enumerate(nodes)]
    return plan_trials(config, cluster, reader_cpus=READER)


def pbt(**budget: int) -> dict[str, Any]:
    return {"scheduler": {"name": "pbt", "perturb": ["optimizer.learning_rate"]}, "budget": budget or {"trials": 20}}


def cpus_of(capacity: Capacity, num_workers: int = 1) -> float:
    """Returns what the trials take of a cluster at most, with their readers."""
    return capacity.num_trials * (num_workers * capacity.cpus_per_worker + 2 * READER + TRIAL_CPUS)


@pytest.mark.parametrize(("cpus", "num_trials"), [(0.8, 1), (1, 1), (2, 2), (4, 4), (16, 16)])
def test_a_trial_takes_a_core_but_for_its_readers(cpus: float, num_trials: int) -> None:
    capacity = plan((cpus, 0))

    assert (capacity.num_trials, capacity.gpus_per_worker, capacity.is_limit) == (num_trials, 0.0, True)
    assert cpus - 0.01 * num_trials < cpus_of(capacity) <= cpus


def test_as_many_trials_as_are_asked_for_share_the_cluster() -> None:
    capacity = plan((4, 0), max_concurrent=5)

    assert capacity.num_trials == 5
    assert cpus_of(capacity) <= 4
    assert plan((4, 0), max_concurrent=2) == Capacity(2, 1.0)


def test_workers_of_a_size_leave_room_for_as_many_as_fit() -> None:
    assert plan((8, 0), scaling={"cpus_per_worker": 2}) == Capacity(3, 2.0)  # 3 * (2 + 0.5) fit 8, 4 do not
    assert plan((8, 0), scaling={"cpus_per_worker": 2, "num_workers": 3}) == Capacity(1, 2.0)


def test_no_worker_is_counted_on_the_rests_of_two_nodes() -> None:
    assert plan((3, 0), (3, 0), scaling={"cpus_per_worker": 2}).num_trials == 2
    assert plan((3, 0), (3, 0), (9, 0), scaling={"cpus_per_worker": 4}).num_trials == 2


def test_a_trial_may_have_its_workers_on_several_nodes() -> None:
    assert plan((2, 0), (2, 0), scaling={"cpus_per_worker": 1.5, "num_workers": 2}) == Capacity(1, 1.5)


def test_a_cluster_too_small_for_one_trial_is_told() -> None:
    message = (
        r"^tune.max_concurrent: 1 trials of 1 worker of 2 CPUs and two readers of 0.25 CPUs do not fit the cluster's 2 "
        r"logical CPUs and 0 GPUs, 0 do; lower it, "
    )
    with pytest.raises(ConfigError, match=message):
        plan((2, 0), scaling={"cpus_per_worker": 2})


def test_more_trials_than_fit_are_told() -> None:
    with pytest.raises(ConfigError, match=r"^tune.max_concurrent: 3 trials of 2 workers of 1 CPUs .* 4 .*, 1 do; "):
        plan((4, 0), scaling={"cpus_per_worker": 1, "num_workers": 2}, max_concurrent=3)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({}, (2, 1.0)),
        ({"gpus_per_worker": 0.5}, (4, 0.5)),
        ({"gpus_per_worker": 0.4}, (4, 0.4)),  # two a GPU
        ({"gpus_per_worker": 2}, (1, 2.0)),
        ({"num_workers": 2}, (1, 1.0)),
        ({"num_workers": 3}, (5, 0.0)),  # too few GPUs for one trial
        ({"use_gpu": False}, (16, 0.0)),
    ],
)
def test_gpus_are_shared_as_the_config_says(scaling: dict[str, Any], expected: tuple[int, float]) -> None:
    capacity = plan((16, 2), scaling=scaling)

    assert (capacity.num_trials, capacity.gpus_per_worker) == expected


def test_gpus_of_two_nodes_make_no_place_of_two() -> None:
    assert plan((16, 1), (16, 1), scaling={"gpus_per_worker": 2}).gpus_per_worker == 0


@pytest.mark.parametrize(("nodes", "scaling"), [([(16, 0)], {"use_gpu": True}), ([(16, 1)], {})])
def test_trials_that_find_no_gpu_are_told(nodes: list[tuple[float, float]], scaling: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"2 trials of 1 worker on 1 GPUs each .* [01] GPUs, [01] do; "):
        plan(*nodes, scaling=scaling, max_concurrent=2)


def test_a_range_of_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^scaling.num_workers: trials have a fixed number .* found \(1, 2\)"):
        plan((8, 0), scaling={"num_workers": [1, 2]})


@pytest.mark.parametrize("name", ["pbt", "hyperband"])
@pytest.mark.parametrize(("cpus", "max_concurrent"), [(4, 2), (4, None), (2, 1), (16, 3)])
def test_where_trials_wait_what_the_others_take_keeps_one_more_out(
    name: str, cpus: float, max_concurrent: int | None
) -> None:
    tune = pbt() if name == "pbt" else {"scheduler": {"name": name}}
    capacity = plan((cpus, 0), max_concurrent=max_concurrent, **tune)

    taken = capacity.num_trials * capacity.cpus_per_worker
    assert not capacity.is_limit
    assert taken + READER <= cpus
    assert taken + capacity.cpus_per_worker > cpus


def test_waiting_trials_of_several_workers_all_need_room_at_once() -> None:
    assert plan((8, 0), scaling={"num_workers": 2}, **pbt(trials=4)).is_limit
    with pytest.raises(ConfigError, match=r"^tune.budget.trials: with 2 workers a trial, .* 4 have room, found 5"):
        plan((8, 0), scaling={"num_workers": 2}, **pbt(trials=5))
