"""A Ray that does not start, and a RAY_ADDRESS where no cluster answers: one sentence each, soon, and nothing left."""

from __future__ import annotations

import concurrent.futures
import http.server
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path

import grpc
import psutil
import pytest
import ray

from tests.e2e.conftest import free_port
from tests.e2e.processes import Command
from tests.integration.conftest import FEATURE_DIM, Shards
from yt8m_ray.cli import ray_cluster as cluster
from yt8m_ray.cli.ray_cluster import join_cluster
from yt8m_ray.errors import ConfigError


@pytest.mark.parametrize(
    "address", ["head", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:port", "ray://127.0.0.1:10001"]
)
def test_what_is_no_address_is_a_fault_of_the_configuration(address: str) -> None:
    with pytest.raises(ConfigError, match=rf"RAY_ADDRESS: expected HOST:PORT, `auto` or `local`, found '{address}'"):
        join_cluster(address, {})


def test_an_address_where_nobody_listens_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"

    with pytest.raises(ConnectionError, match=rf"RAY_ADDRESS {address}: nothing answers at {address}: .*refused"):
        join_cluster(address, {})


def test_a_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(ConnectionError, match=r"RAY_ADDRESS head\.invalid:6379: nothing answers"):
        join_cluster("head.invalid:6379", {})


def test_a_port_that_stays_silent_is_left_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(ConnectionError, match=f"RAY_ADDRESS {address}: what listens there has not answered"):
            join_cluster(address, {})


def test_another_kind_of_server_is_no_cluster() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ConnectionError, match="what listens there is no Ray cluster"):
            join_cluster(f"127.0.0.1:{server.server_port}", {})
        server.shutdown()


def test_another_server_of_grpc_is_no_cluster() -> None:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with pytest.raises(ConnectionError, match=r"what listens there is no Ray cluster \(UNIMPLEMENTED\)"):
            join_cluster(address, {})
    finally:
        server.stop(None)


def inspect(folder: Path, shards: Shards, **environment: str) -> Command:
    arguments = (shards.validation, "--features", f"mean_rgb={FEATURE_DIM}")
    return Command(sys.executable, "-m", "jobs.inspect", *arguments, folder=folder, environment=environment)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RAY_AUTH_TOKEN": "of somebody else"}, "the cluster refuses the token in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "disabled"}, "the cluster refuses a command without its token: set RAY_AUTH_MODE=token and"),
    ],
)
def test_a_cluster_with_another_token_is_left_at_once(
    ray_cluster: None, shards: Shards, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    address = ray.get_runtime_context().gcs_address

    with inspect(tmp_path, shards, RAY_ADDRESS=address, **variables) as command:
        outcome = command.wait()

    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f"error: RAY_ADDRESS {address}: {message}")
    assert outcome.stderr.count("\n") == 1


def test_a_ray_that_does_not_start_is_tried_twice_and_leaves_one_sentence_and_no_process(
    shards: Shards, tmp_path: Path
) -> None:
    # As if the GCS had not been ready after 30 s.
    with inspect(tmp_path, shards, RAY_gcs_server_port_wait_time_s="0", RAY_TMPDIR="/tmp") as command:
        outcome = command.wait()
        leftovers = command.leftovers()

    assert (outcome.code, outcome.stdout, leftovers) == (1, "", [])
    first, last = outcome.stderr.splitlines()
    assert re.fullmatch(r"Ray did not start \(.+\); trying once more", first)
    assert re.fullmatch(
        rf"error: Ray did not start in two tries: .+; the load is [0-9.]+ on {os.cpu_count()} CPUs; "
        r"Ray's logs are in /tmp/ray/session_latest/logs",
        last,
    )


@pytest.mark.soak
def test_a_ray_that_starts_at_the_second_try_does_the_work(shards: Shards, tmp_path: Path) -> None:
    with inspect(tmp_path, shards, RAY_gcs_server_port_wait_time_s="20") as command:
        command.wait_until(lambda: gcs_servers(command))
        (first,) = gcs_servers(command)
        first.suspend()  # before it has written its port down
        outcome = command.wait()
        leftovers = command.leftovers()

    assert "; trying once more" in outcome.stderr.splitlines()[0]
    assert (outcome.code, leftovers) == (0, [])
    assert json.loads(outcome.stdout)["failures"] == []


def gcs_servers(command: Command) -> list[psutil.Process]:
    return [process for process in command.processes() if process.name() == "gcs_server"]
