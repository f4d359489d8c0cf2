from __future__ import annotations

from typing import Any

import pytest

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.driver.scaling import Node, Workers, gpu_places, plan_workers


def plan(num_workers: int | list[int], *nodes: tuple[float, float], **scaling: Any) -> Workers:
    """Returns the workers for nodes of (CPUs, GPUs), where a reader takes a quarter of a CPU."""
    config = TrainConfig.model_validate(
        {
            "run": {"name": "plan"},
            "model": {"name": "logistic"},
            "train": {"batch_size": 8},
            "scaling": {"num_workers": num_workers, **scaling},
        }
    )
    cluster = [Node(str(index), cpus, gpus) for index, (cpus, gpus) in enumerate(nodes)]
    return plan_workers(config, cluster, reader_cpus=0.25)


def test_a_plain_number_of_workers_shares_a_small_cluster() -> None:
    assert plan(2, (2, 0)) == Workers(2, 0.75, use_gpu=False)


def test_a_range_takes_what_the_cluster_has_room_for() -> None:
    assert plan([1, 4], (2, 0)).num == 1  # the reader needs a part of the second CPU
    assert plan([1, 4], (2, 0), (2, 0)).num == 3
    assert plan([1, 4], (8, 0)).num == 4


def test_no_worker_is_counted_on_the_rests_of_two_nodes() -> None:
    assert plan([1, 8], (2, 0), (1.5, 0), (1.5, 0)).num == 4


def test_a_worker_with_a_gpu_goes_where_there_is_one() -> None:
    assert plan([1, 4], (8, 2), (8, 0)) == Workers(2, 1.0, use_gpu=True)


def test_fewer_than_the_least_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^scaling: 3 workers of 1 CPUs and a reader of 0.25 do not fit"):
        plan([3, 4], (2, 0), cpus_per_worker=1)


def test_workers_that_ask_for_gpus_are_refused_where_too_few_are() -> None:
    with pytest.raises(ConfigError, match=r"^scaling.num_workers: 2 need a GPU each, the cluster has 1$"):
        plan(2, (8, 1), use_gpu=True)


def test_a_batch_has_a_video_for_every_worker() -> None:
    with pytest.raises(ConfigError, match=r"^train.batch_size: 8 videos are too few for 9 workers"):
        plan([1, 9], (16, 0))


@pytest.mark.parametrize(
    ("gpus", "share", "places"),
    [(2, 1, 2), (2, 0.5, 4), (2, 0.4, 4), (1, 0.3, 3), (1, 0.1, 10), (0, 0.5, 0), (4, 2, 2), (3, 2, 1), (1, 2, 0)],
)
def test_a_part_of_a_gpu_is_a_part_of_one(gpus: float, share: float, places: int) -> None:
    assert gpu_places(Node("a", 8, gpus), share) == places


def test_a_worker_takes_its_share_of_gpus() -> None:
    assert plan(1, (8, 1), gpus_per_worker=0.5) == Workers(1, 1.0, use_gpu=True, gpus_each=0.5)
    assert plan([1, 4], (8, 2), (8, 1), gpus_per_worker=2) == Workers(1, 1.0, use_gpu=True, gpus_each=2.0)


def test_workers_of_several_gpus_are_refused_where_too_few_are() -> None:
    with pytest.raises(ConfigError, match=r"^scaling.num_workers: 1 need 2 GPUs each, the cluster has 1$"):
        plan(1, (8, 1), use_gpu=True, gpus_per_worker=2)


@pytest.mark.parametrize(
    ("num_workers", "share", "message"),
    [
        (2, 0.5, "gpus_per_worker: workers of one run cannot share a GPU"),
        ([1, 2], 0.5, "gpus_per_worker: workers of one run cannot share a GPU"),
        (1, 1.5, "gpus_per_worker: expected a part of a GPU, or whole ones, found 1.5"),
        (1, 0, "gpus_per_worker"),
    ],
)
def test_a_share_that_no_worker_can_have_is_refused(num_workers: Any, share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(num_workers, (8, 2), gpus_per_worker=share)
