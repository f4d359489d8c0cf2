from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Shards
from tests.integration.test_train import config_of
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.driver.nodes import check_shared, fitting_workers, wait_for_workers

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
