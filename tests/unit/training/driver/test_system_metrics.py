from __future__ import annotations

import torch

from yt8m_ray.training.driver.system_metrics import SystemMetrics


def test_memory_of_the_process_and_the_machine_is_read() -> None:
    values = SystemMetrics(torch.device("cpu")).read()

    assert 0.05 < values["system/worker_memory_gb"] < values["system/memory_used_gb"]
    assert 0 <= values["system/cpu_percent"] <= 100
    assert not any("gpu" in name for name in values)


def test_nothing_is_read_where_nobody_asks() -> None:
    assert SystemMetrics(torch.device("cpu"), enabled=False).read() == {}
