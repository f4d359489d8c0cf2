"""The Ray cluster of a verb: one of this machine that it starts, or one that is there and that it joins."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import grpc
import psutil
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address, find_node_ids
from ray.exceptions import AuthenticationError

from yt8m_ray.config.document import ConfigError
from yt8m_ray.local_cluster import local_environment

logger = logging.getLogger("jobs")

ANSWER_TIMEOUT_S = 10.0

_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}

_REFUSALS = {
    grpc.StatusCode.UNAUTHENTICATED: "the cluster refuses {credentials}",
    grpc.StatusCode.DEADLINE_EXCEEDED: f"what listens there has not answered for {ANSWER_TIMEOUT_S:g} s",
}


def start_cluster(runtime_env: dict[str, Any]) -> None:
    """Starts a cluster on 127.0.0.1, behind this user's token; a start that fails is tried once more.

    Raises:
        RuntimeError: the second start failed too. Nothing that was started is left.
    """
    os.environ.update(local_environment())
    if os.environ["RAY_AUTH_MODE"] != "token":
        logger.warning("RAY_AUTH_MODE is %s: every user of this machine can run code here", os.environ["RAY_AUTH_MODE"])
    try:
        context = _start(runtime_env)
    except _StartError as error:
        logger.warning("Ray did not start (%s); trying once more", error)
        try:
            context = _start(runtime_env)
        except _StartError as last:
            load = f"the load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
            logs = f"{os.environ['RAY_TMPDIR']}/ray/session_latest/logs"
            raise RuntimeError(f"Ray did not start in two tries: {last}; {load}; Ray's logs are in {logs}") from None
    if context.dashboard_url:
        token = os.environ.get("RAY_AUTH_TOKEN_PATH") or "RAY_AUTH_TOKEN"
        logger.info("Ray dashboard: http://%s (its token is in %s)", context.dashboard_url, token)


def join_cluster(address: str, runtime_env: dict[str, Any]) -> None:
    """Connects to the cluster at `address`, as RAY_ADDRESS names it.

    Raises:
        ConfigError: it is no address.
        ConnectionError: no cluster that takes this process answers there.
    """
    try:
        place = canonicalize_bootstrap_address(address) or ""
        is_place = "://" not in place and 0 < int(place.rpartition(":")[2]) < 2**16
    except ValueError:
        is_place = False
    except ConnectionError:
        raise ConnectionError("RAY_ADDRESS is `auto`, and no Ray runs on this machine") from None
    if not is_place:
        raise ConfigError(f"RAY_ADDRESS: expected HOST:PORT, `auto` or `local`, found {address!r}")
    _check_answer(address, place)
    if not find_node_ids():  # Ray would look for one for a minute
        reason = "none of the cluster's nodes is on this machine; run the command on one, or with `ray job submit`"
        raise ConnectionError(f"RAY_ADDRESS {address}: {reason}")
    try:
        ray.init(address, runtime_env=runtime_env, **_QUIET)
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise ConnectionError(f"RAY_ADDRESS {address}: {_one_line(error.__cause__ or error)}") from None


class _StartError(Exception):
    """Why one start failed, in one line."""


def _start(runtime_env: dict[str, Any]) -> Any:
    others = set(psutil.Process().children(recursive=True))
    try:
        return ray.init("local", runtime_env=runtime_env, **_QUIET)
    except Exception as error:  # noqa: BLE001 - Ray 2.60 raises Exception itself where a raylet or the dashboard is late
        ray.shutdown()  # which leaves running what a cluster that is not complete has started
        started = set(psutil.Process().children(recursive=True)) - others
        for process in started:
            process.kill()
        psutil.wait_procs(started, timeout=10)
        raise _StartError(_one_line(error)) from None


def _check_answer(address: str, place: str) -> None:
    """Asks the cluster for its id. `ray.init` alone would try for 13 minutes where nobody answers (Ray 2.60)."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
        with init_grpc_channel(place) as channel:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=ANSWER_TIMEOUT_S)
    except OSError as error:
        reason = f"nothing answers at {place}: {error}"
    except AuthenticationError:
        reason = "RAY_AUTH_MODE is `token`, and there is no token: set RAY_AUTH_TOKEN_PATH to its file"
    except grpc.RpcError as error:
        reason = _REFUSALS.get(error.code(), f"what listens there is no Ray cluster ({error.code().name})")
        reason = reason.format(credentials=_credentials())
    else:
        return
    raise ConnectionError(f"RAY_ADDRESS {address}: {reason}")


def _credentials() -> str:
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return "a command without its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file of the token"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the token in RAY_AUTH_TOKEN"
    return f"the token in {os.environ.get('RAY_AUTH_TOKEN_PATH') or '~/.ray/auth_token'}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
