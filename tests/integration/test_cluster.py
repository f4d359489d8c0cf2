from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Shards
from tests.integration.test_train import config_of
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.driver.nodes import (
    can_train_here,
    check_shared,
    fitting_workers,
    free_cpus,
    reserved_cpus,
    wait_for_workers,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_range_takes_all_that_fit_beside_a_reader(shards: Shards, tmp_path: Path) -> None:
    assert fitting_workers(config_of(shards, tmp_path, "range", scaling={"num_workers": [1, 8]})).num == 3


def test_a_run_waits_for_nodes_for_a_stated_time(shards: Shards, tmp_path: Path) -> None:
    config = config_of(shards, tmp_path, "large", scaling={"num_workers": 3, "cpus_per_worker": 2})

    with pytest.raises(ConfigError, match=r"3 workers of 2 CPUs .* 4 logical CPUs.* \(waited 1 s for more\)$"):
        wait_for_workers(config, wait_s=1)


def test_one_node_shares_any_folder_with_itself_and_nothing_stays_in_it(tmp_path: Path) -> None:
    check_shared(tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scaling", "is_local"),
    [
        ({"num_workers": 1}, True),
        ({"num_workers": 2}, False),
        ({"num_workers": [1, 2]}, False),
        ({"num_workers": 1, "local_mode": False}, False),
    ],
)
def test_one_worker_on_one_machine_trains_here_unless_asked_otherwise(
    shards: Shards, tmp_path: Path, scaling: dict[str, Any], is_local: bool
) -> None:
    config = config_of(shards, tmp_path, "here", scaling=scaling)

    assert can_train_here(config, fitting_workers(config)) == is_local


def test_the_cpus_of_a_run_that_trains_here_are_held_until_it_ends() -> None:
    with reserved_cpus(3):
        wait_for_cpus(1)
    wait_for_cpus(4)


def wait_for_cpus(num: float) -> None:
    """Returns when as many are free: Ray's own count follows by about a second."""
    while free_cpus() != num:
        time.sleep(0.1)
