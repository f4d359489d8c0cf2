"""The service as `serve run` starts it, for a benchmark: a copy of serve/config.yaml with a port, tokens and bundles.

Nothing is shared with another Ray of this machine but its ports: those of the HAProxy are fixed, so a benchmark behind
it wants a network of its own (`unshare --net`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.load import Connection, Reply, request
from benchmarks.measure import ROOT
from serve.haproxy.environment import haproxy_environment
from tests.e2e.processes import Command
from yt8m_ray.local_cluster import LOOPBACK_ONLY

REPLICA_TITLE = "ray::ServeReplica:yt8m:PredictionService"
PROXY_TITLES = ("ray::ProxyActor", "ray::HAProxyManager", "haproxy")
ADMIN_TOKEN = "operator-of-the-benchmark"
START_TIMEOUT_S = 240.0

_ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "RAY_ADDRESS": "local",
    **LOOPBACK_ONLY,
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}

PROXIES = ("python", "haproxy")
"""What can stand in front of the replicas."""


def proxy_environment(proxy: str, folder: str) -> dict[str, str]:
    """Returns what makes Ray Serve put a proxy of PROXIES in front of the replicas."""
    return haproxy_environment(folder) if proxy == "haproxy" else {}


@dataclass(frozen=True)
class Deployed:
    """A running service."""

    port: int
    command: Command

    def replicas(self) -> list[psutil.Process]:
        """Returns the processes that hold models and take requests."""
        return self._titled((REPLICA_TITLE,))

    def proxies(self) -> list[psutil.Process]:
        """Returns the processes that stand in front of them."""
        return self._titled(PROXY_TITLES)

    def _titled(self, titles: tuple[str, ...]) -> list[psutil.Process]:
        found = []
        for process in self.command.processes():
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(titles) or process.name() in titles:
                    found.append(process)
        return found

    async def promote(self, name: str) -> Reply:
        """Asks for another model, as an operator does."""
        body = json.dumps({"model": name}).encode()
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}", "content-type": "application/json"}
        connection = Connection(self.port)
        try:
            return await connection.ask(request("POST", "/v1/admin/promote", body, headers))
        finally:
            connection.close()


@contextlib.contextmanager
def deployed(
    bundles: Mapping[str, Path],
    *,
    proxy: str = "python",
    num_replicas: int = 1,
    cores: str = "",
    limits: Mapping[str, Any] | None = None,
    deployment: Mapping[str, Any] | None = None,
) -> Iterator[Deployed]:
    """Yields a service that answers with the first of these bundles and ends with the block, whatever happens in it.

    Args:
        bundles: By the names that an operator switches with.
        proxy: One of PROXIES.
        num_replicas: How many.
        cores: On which cores all of it runs, such as `1` or `0,1`; empty leaves it to the system.
        limits: Keys of `user_config` that differ from serve/config.yaml.
        deployment: Keys of the deployment that do.
    """
    with tempfile.TemporaryDirectory(prefix="rl", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        config = _write_config(folder, bundles, port, num_replicas, limits or {}, deployment or {})
        pin = ["taskset", "--cpu-list", cores] if cores else []
        run = [*pin, sys.executable, "-m", "ray.serve.scripts", "run", str(config)]
        environment = {**_ENVIRONMENT, **proxy_environment(proxy, name), "RAY_TMPDIR": name}
        with Command(*run, folder=folder, environment=environment) as command:
            service = Deployed(port, command)
            command.wait_until(lambda: _is_ready(service, num_replicas), START_TIMEOUT_S)
            yield service


def _write_config(
    folder: Path,
    bundles: Mapping[str, Path],
    port: int,
    num_replicas: int,
    limits: Mapping[str, Any],
    deployment: Mapping[str, Any],
) -> Path:
    tree: dict[str, Any] = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text(encoding="utf-8"))
    tokens = folder / "operators"
    tokens.write_text(f"{ADMIN_TOKEN}\n", encoding="utf-8")
    tree["http_options"]["port"] = port
    (application,) = tree["applications"]
    application["args"] |= {"model": str(next(iter(bundles.values()))), "admin_tokens_file": str(tokens)}
    service = application["deployments"][0]
    assert service["name"] == "PredictionService", service["name"]
    service |= {"num_replicas": num_replicas, **deployment}
    service["user_config"] |= {"models": {name: str(path) for name, path in bundles.items()}, **limits}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def _is_ready(service: Deployed, num_replicas: int) -> bool:
    # Scanning processes costs more than a request that nothing answers.
    return asyncio.run(status_of(service.port, "/healthz")) == 200 and len(service.replicas()) >= num_replicas


async def status_of(port: int, path: str) -> int:
    """Returns the status of a GET, 0 where nothing answers."""
    connection = Connection(port)
    try:
        async with asyncio.timeout(5):
            return (await connection.ask(request("GET", path))).status
    except (OSError, EOFError, TimeoutError):
        return 0
    finally:
        connection.close()


def free_port() -> int:
    """Returns a port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Memory:
    """Samples the resident bytes of processes while a benchmark runs.

    Attributes:
        samples: Seconds since the start, and the bytes by the title of the process.
    """

    def __init__(self, processes: Mapping[str, psutil.Process]) -> None:
        self._processes = processes
        self._started = time.perf_counter()
        self.samples: list[tuple[float, dict[str, int]]] = []

    def sample(self) -> dict[str, int]:
        """Takes and returns a sample; a process that has ended has 0 bytes."""
        found = {}
        for title, process in self._processes.items():
            try:
                found[title] = process.memory_info().rss
            except psutil.Error:
                found[title] = 0
        self.samples.append((time.perf_counter() - self._started, found))
        return found

    async def watch(self, every_s: float = 1.0) -> None:
        """Takes samples until it is cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(every_s)

    def growth(self, *, warm_up_s: float) -> dict[str, float]:
        """Returns for each process the largest size after the warm-up, relative to the size at its end."""
        later = [found for moment, found in self.samples if moment >= warm_up_s] or [self.samples[-1][1]]
        return {
            title: round(max(found[title] for found in later) / later[0][title], 4) if later[0][title] else 0.0
            for title in self._processes
        }


def watched(service: Deployed) -> Memory:
    """Returns the memory of a service's replicas and proxies."""
    replicas = {f"replica {index}": process for index, process in enumerate(service.replicas())}
    proxies = {f"proxy {index}": process for index, process in enumerate(service.proxies())}
    return Memory({**replicas, **proxies})
