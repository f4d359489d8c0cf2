"""Load and memory of the machine that rank 0 runs on."""

from __future__ import annotations

import contextlib

import psutil
import torch

_GB = 1e9


class SystemMetrics:
    """Reads `system/...` values, in percent and in 10^9 bytes; those of a GPU where `device` is one."""

    def __init__(self, device: torch.device, *, enabled: bool = True) -> None:
        self._device = device
        self._enabled = enabled
        self._process = psutil.Process()
        # Percentages are those since the last call, and 0 at the first.
        psutil.cpu_percent()
        self._process.cpu_percent()

    def read(self) -> dict[str, float]:
        """Returns percentages since the last call (a process has 100 for each busy core), and memory in use now."""
        if not self._enabled:
            return {}
        memory = psutil.virtual_memory()
        values = {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/memory_used_gb": (memory.total - memory.available) / _GB,
            "system/memory_percent": memory.percent,
            "system/worker_cpu_percent": self._process.cpu_percent(),
            "system/worker_memory_gb": self._process.memory_info().rss / _GB,
        }
        return values | (self._read_gpu() if self._device.type == "cuda" else {})

    def _read_gpu(self) -> dict[str, float]:
        free, total = torch.cuda.mem_get_info(self._device)
        values = {
            "system/gpu_memory_used_gb": (total - free) / _GB,
            "system/gpu_memory_peak_gb": torch.cuda.max_memory_reserved(self._device) / _GB,
        }
        # Without nvidia-ml-py, or a driver that answers it, there is no such value.
        with contextlib.suppress(ImportError, RuntimeError):
            values["system/gpu_percent"] = float(torch.cuda.utilization(self._device))
        return values
