"""The process group of a run's workers, whose store listens at the address of rank 0's node alone."""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Any

import ray
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]

# Of this process: a store serves as long as it is referenced.
_stores: list[TCPStore] = []


@dataclasses.dataclass
class BoundTorchConfig(TorchConfig):
    """Ray Train's configuration of torch, but the store listens at one address."""

    # A stranger who reaches the store can take a worker's place, and workers send one another pickled values. The store
    # that torch 2.13 makes itself listens on all interfaces, whatever MASTER_ADDR says.
    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, TorchConfig)
        has_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        address, port = worker_group.execute_single(0, _start_store)
        worker_group.execute(_set_store, address, port)
        worker_group.execute(_set_torch_distributed_env_vars)
        waiting = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend="nccl" if has_gpu else "gloo",
                world_rank=rank,
                world_size=len(worker_group),
                init_method="env://",
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(waiting)


def _start_store() -> tuple[str, int]:
    """Starts the store in the process of rank 0; returns its address and port."""
    address = ray.util.get_node_ip_address()
    listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    port: int = listener.getsockname()[1]
    descriptor = listener.detach()
    _stores[:] = [TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)]
    return address, port


def _set_store(address: str, port: int) -> None:
    # With the last variable, `env://` connects to the store and starts none.
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
