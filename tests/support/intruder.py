"""Runs a command in a network of its own and tries, without a token, to get into what it opens there.

    python tests/support/intruder.py REPORT [--until PORT] -- COMMAND...

The network has a second address, 10.99.0.2, which Ray takes for the machine's. REPORT becomes one JSON document with
the sockets that were listened on, the calls that were answered, and whether a Ray driver got in. With `--until` the
command is a service: it is interrupted when it is healthy at that port and everything has been tried.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import psutil

OUTSIDE = "10.99.0.2"
NAMESPACE = ("unshare", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
ADDRESSES = (
    "ip link set lo up",
    f"ip address add {OUTSIDE}/24 dev lo",
    "ip route add default via 10.99.0.1 dev lo",
)

# One call of each server of Ray that changes nothing; what is not refused has been answered.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetClusterId",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/NumPendingTasks",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)
REFUSALS = ("UNAUTHENTICATED", "UNIMPLEMENTED", "401", "404", "405", "503", "metrics")
TRIES = 3  # of a server that says nothing: it may not be ready yet, or speak another language
SILENCE = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
PAGES = ("/api/jobs/", "/api/v0/actors", "/api/serve/applications/", "/get_or_create_runtime_env")
DRIVER = """
import os, sys, ray
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("ran code as", ray.get(ray.remote(num_cpus=0)(lambda: os.getuid()).remote()))
"""


@dataclass
class Report:
    """What was seen.

    Attributes:
        code: The command's exit code.
        listening: (address, port, name of the process) of each socket.
        answered: Each call that was answered, and by whom.
        refusing: The ports that asked for a token.
        drivers: What a Ray driver without a token printed.
    """

    code: int = -1
    listening: list[tuple[str, int, str]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    refusing: list[int] = field(default_factory=list)
    drivers: list[str] = field(default_factory=list)


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    path, until = Path(arguments[0]), arguments[2] if split > 1 else None
    report = Report()
    command = subprocess.Popen(arguments[split + 1 :], start_new_session=True)
    intruder = Intruder(report)
    while command.poll() is None:
        intruder.look_around()
        if until and is_healthy(int(until)):
            intruder.finish()
            os.killpg(command.pid, signal.SIGINT)
            command.wait()
    intruder.finish()
    report.code = command.returncode
    path.write_text(json.dumps(asdict(report)))


class Intruder:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._driver: subprocess.Popen[str] | None = None
        self._tries: Counter[int] = Counter()
        self._sockets = ""

    def look_around(self) -> None:
        """Tries whatever listens and has neither refused nor answered yet."""
        time.sleep(0.2)
        before, self._sockets = self._sockets, listening_sockets()
        if self._sockets == before and all(self._is_tried(port) for _, port, _ in self._report.listening):
            return
        for address, port, process in listening():
            if (address, port) not in [found[:2] for found in self._report.listening]:
                self._report.listening.append((address, port, process))
            if process == "gcs_server" and self._driver is None:
                self._driver = start_driver(port)
            if not self._is_tried(port):
                spoke = [self._call(host, port, process) for host in (OUTSIDE, "127.0.0.1")]
                self._tries[port] += TRIES if any(spoke) else 1

    def _is_tried(self, port: int) -> bool:
        return self._tries[port] >= TRIES

    def finish(self) -> None:
        """Waits for the driver that tries to join."""
        if self._driver is not None:
            output, errors = self._driver.communicate()
            self._report.drivers.append(output.strip() or errors.strip())
            self._driver = None

    def _call(self, host: str, port: int, process: str) -> bool:
        """Returns whether the server refused or answered anything."""
        has_spoken = False
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError:
            return False
        for call, answer in [*grpc_answers(host, port), *http_answers(host, port)]:
            has_spoken |= answer not in SILENCE
            if answer in ("UNAUTHENTICATED", "401") and port not in self._report.refusing:
                self._report.refusing.append(port)
            if answer not in (*SILENCE, *REFUSALS):
                self._report.answered.append(f"{process} {host} {call} {answer}")
        return has_spoken


def listening_sockets() -> str:
    """Returns the system's lines of them, which cost less than to look whose they are."""
    lines = [line for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    return "\n".join(line for line in lines if line.split()[3] == "0A")


def listening() -> list[tuple[str, int, str]]:
    """Returns (address, port, name of the process) of each listening TCP socket of this network."""
    found = []
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            found.append((connection.laddr.ip, connection.laddr.port, name_of(connection.pid)))
    return found


def name_of(pid: int | None) -> str:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).name()
    return "unknown"


def grpc_answers(host: str, port: int) -> Iterator[tuple[str, str]]:
    """Yields (call, status); ends early where no gRPC is spoken."""
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for call in CALLS:
            try:
                channel.unary_unary(call)(b"", timeout=1)
                yield call, "OK"
            except grpc.RpcError as error:
                yield call, error.code().name
                if error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                    return


def http_answers(host: str, port: int) -> Iterator[tuple[str, str]]:
    """Yields (path, status); nothing where no HTTP is spoken. Prometheus' pages answer any path with numbers."""
    for page in PAGES:
        connection = http.client.HTTPConnection(host, port, timeout=2)
        try:
            connection.request("GET", page)
            response = connection.getresponse()
            yield page, "metrics" if response.read(7) == b"# HELP " else str(response.status)
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()


def start_driver(port: int) -> subprocess.Popen[str]:
    """Starts a Ray driver of somebody who has no token: it joins the cluster and runs a task there."""
    private = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in private}
    environment |= {"RAY_AUTH_MODE": "disabled", "HOME": "/nonexistent", "RAY_gcs_server_port_wait_time_s": "2"}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # or Ray would take 127.0.0.1 for the address of the network
    arguments = [sys.executable, "-c", DRIVER, f"127.0.0.1:{port}"]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def is_healthy(port: int) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).status == 200
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
