"""The Ray cluster of a verb: a local one that it starts, or an existing one that it joins."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Set
from typing import Any

import grpc
import psutil
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address, find_node_ids
from ray.exceptions import AuthenticationError

from yt8m_ray.errors import ClusterDiedError, ConfigError
from yt8m_ray.local_cluster import local_environment

logger = logging.getLogger("jobs")

ANSWER_TIMEOUT_S = 10.0

_WATCH_INTERVAL_S = 0.5
# From the signal to a hard exit: for a main thread that waits in Ray's C++ code, which no signal reaches.
_LAST_WORDS_S = 10.0

# Ray's own lines stay in its session folder; what an operator acts on comes from this package.
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}

_REFUSALS = {
    grpc.StatusCode.UNAUTHENTICATED: "the cluster refuses {credentials}",
    grpc.StatusCode.DEADLINE_EXCEEDED: f"what listens there has not answered for {ANSWER_TIMEOUT_S:g} s",
}


def start_cluster(runtime_env: dict[str, Any]) -> None:
    """Starts a cluster on 127.0.0.1 with this user's token; RuntimeError after two tries, with no process left."""
    os.environ.update(local_environment())
    if os.environ["RAY_AUTH_MODE"] != "token":
        logger.warning("RAY_AUTH_MODE is %s: every user of this machine can run code here", os.environ["RAY_AUTH_MODE"])
    for is_last in (False, True):
        try:
            context = _start(runtime_env)
            break
        except _StartError as error:
            if not is_last:
                logger.warning("Ray did not start (%s); trying once more", error)
                continue
            load = f"the load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
            logs = f"{os.environ['RAY_TMPDIR']}/ray/session_latest/logs"
            raise RuntimeError(f"Ray did not start in two tries: {error}; {load}; Ray's logs are in {logs}") from None
    if context.dashboard_url:
        token = os.environ.get("RAY_AUTH_TOKEN_PATH") or "RAY_AUTH_TOKEN"
        logger.info("Ray dashboard: http://%s (its token is in %s)", context.dashboard_url, token)


def join_cluster(address: str, runtime_env: dict[str, Any]) -> None:
    """Connects to the cluster at `address`, a value of RAY_ADDRESS.

    ConfigError if it is no address, ConnectionError if no cluster there accepts this process.
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
    # `ray.init` would look for a node for a minute.
    if not find_node_ids():
        reason = "none of the cluster's nodes is on this machine; run the command on one, or with `ray job submit`"
        raise ConnectionError(f"RAY_ADDRESS {address}: {reason}")
    try:
        with _silent_library():
            ray.init(address, runtime_env=runtime_env, **_QUIET)
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise ConnectionError(f"RAY_ADDRESS {address}: {_one_line(error.__cause__ or error)}") from None


@contextlib.contextmanager
def watched_cluster() -> Iterator[None]:
    """Disconnects at the end, and interrupts the block when the raylet of this node or a GCS on this machine dies.

    ClusterDiedError says that one has died. Ray cannot be shut down any more then: end with `os._exit`.
    """
    # Ray 2.60 would end this process without a message, 15 s after the raylet's death and 60 s after the GCS's.
    watch = _Watch()
    before = signal.signal(signal.SIGUSR1, watch.interrupt)
    try:
        with watch:
            yield
    except BaseException:
        # Any error may be a consequence of the death.
        if watch.error is not None:
            raise watch.error from None
        raise
    finally:
        signal.signal(signal.SIGUSR1, before)
        if watch.error is None:
            ray.shutdown()


class _Watch(threading.Thread):
    """Watches Ray's processes on this machine, and interrupts the thread that made it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.error: ClusterDiedError | None = None
        self._node: Any = ray._private.worker._global_node
        self._caller = threading.get_ident()
        self._processes = list(_servers(self._node))
        self._is_over = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def interrupt(self, *_: object) -> None:
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        while not self._is_over.wait(_WATCH_INTERVAL_S):
            dead = [name for name, process in self._processes if not _is_alive(process)]
            if dead:
                logs = f"{self._node.get_session_dir_path()}/logs"
                self.error = ClusterDiedError(f"Ray's {dead[0]} on this machine has died; its logs are in {logs}")
                # Now, since Ray may end this process at any moment.
                print(f"error: {self.error}", file=sys.stderr, flush=True)
                # A cluster of this process, whose other processes would wait for the dead one.
                if self._node.is_head():
                    _kill_descendants()
                signal.pthread_kill(self._caller, signal.SIGUSR1)
                if not self._is_over.wait(_LAST_WORDS_S):
                    os._exit(1)
                return


def _servers(node: Any) -> Iterator[tuple[str, psutil.Process]]:
    """Yields (name, process) of `node`'s raylet, and of the GCS if it is on this machine."""
    raylet, gcs = f"--raylet_socket_name={node.raylet_socket_name}", f"--session-name={node.session_name}"
    for process in psutil.process_iter(["name", "cmdline"]):
        name, arguments = process.info["name"], process.info["cmdline"] or []
        if (name == "raylet" and raylet in arguments) or (name == "gcs_server" and gcs in arguments):
            yield name, process


def _is_alive(process: psutil.Process) -> bool:
    try:
        # A dead child is a zombie until its parent waits for it.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class _StartError(Exception):
    """Why one start failed, in one line."""


def _start(runtime_env: dict[str, Any]) -> Any:
    others = set(psutil.Process().children(recursive=True))
    try:
        with _silent_library():
            return ray.init("local", runtime_env=runtime_env, **_QUIET)
    except Exception as error:  # noqa: BLE001 - Ray 2.60 raises Exception itself where a raylet or the dashboard is late
        # It does not stop the processes of an incomplete cluster.
        ray.shutdown()
        psutil.wait_procs(_kill_descendants(but=others), timeout=10)
        raise _StartError(_one_line(error)) from None


@contextlib.contextmanager
def _silent_library() -> Iterator[None]:
    """Drops what is written to the file descriptor of stderr: Ray's C++ library says there which log level it has."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _kill_descendants(*, but: Set[psutil.Process] = frozenset()) -> Set[psutil.Process]:
    """Kills the descendants of this process and returns them."""
    started = set(psutil.Process().children(recursive=True)) - but
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return started


def _check_answer(address: str, place: str) -> None:
    # `ray.init` of Ray 2.60 would try for 13 minutes where nothing answers.
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
