"""Python processes that need not import torch and MLflow: forks of one that has imported them.

    python -m tests.support.warm SOCKET MODULE...    # serves until its stdin ends

Their import takes seven seconds of a core, in each command and in each worker of Ray. A fork is a process of its own,
with its own session, environment, arguments, exit code and signals; it begins where `python -m` or `python FILE` would
have begun. `tests/support/warm_python.py` does the same where a program is expected, such as Ray's `py_executable`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]

MODULES = (
    *("torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "scipy.stats"),
    *("mlflow", "mlflow.pyfunc", "pandas", "pyarrow.dataset", "matplotlib.pyplot", "optuna", "numba", "aiohttp"),
    *("yt8m_ray.config.tune", "yt8m_ray.config.export", "yt8m_ray.inference.predictor", "yt8m_ray.tracking.runs"),
)
"""What takes long, without Ray: its library reads the environment of a worker when it is imported."""


WORKER_PYTHON = "YT8M_TEST_WORKER_PYTHON"

TAG = "YT8M_TEST_COMMAND"
"""A variable in the environment of a command: all its descendants have it too, whoever their parent is by then."""


def use_warm_workers(runtime_env: dict[str, Any] | None) -> dict[str, Any]:
    """Returns a driver's runtime environment with the Python of its workers, as `RAY_RUNTIME_ENV_HOOK` does."""
    return {**(runtime_env or {}), "py_executable": os.environ[WORKER_PYTHON]}


class WarmPython:
    """A process that has imported `modules` and forks others.

    Args:
        folder: Of the socket; its path is short, as those of sockets have to be.
        modules: What it imports.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = MODULES) -> None:
        self.socket = folder / "warm"
        program = [sys.executable, "-m", "tests.support.warm", str(self.socket), *modules]
        self._process = subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the modules cannot be imported"

    @property
    def for_workers(self) -> dict[str, str]:
        """The environment of a driver of Ray whose workers are to be forks too."""
        return {"RAY_RUNTIME_ENV_HOOK": f"{__name__}.use_warm_workers", WORKER_PYTHON: self.executable}

    @property
    def executable(self) -> str:
        """A command line that stands for `python`."""
        return f"{sys.executable} -ISE {ROOT / 'tests' / 'support' / 'warm_python.py'} {self.socket}"

    def start(self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], *streams: BinaryIO) -> Fork:
        """Starts `python ARGUMENTS` in a session of its own; `streams` are its stdin, stdout and stderr."""
        return Fork(self.socket, list(arguments), cwd, dict(environment), [stream.fileno() for stream in streams])

    def forks_of(self, tag: str) -> list[int]:
        """Returns the numbers of the forks that run with that TAG, which others do not see in their environment."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            request = json.dumps({"tag": tag}).encode()
            connection.sendall(b"%10d" % len(request) + request)
            found: list[int] = json.loads(connection.makefile().readline())
        return found

    def close(self) -> None:
        """Ends it, and the forks that still run."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Fork:
    """A forked process, with the methods of `subprocess.Popen` that commands need."""

    def __init__(self, path: Path, arguments: list[str], cwd: Path, environment: dict[str, str], files: list[int]):
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(path))
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environment": environment}).encode()
        socket.send_fds(self._connection, [b"%10d" % len(request)], files)
        self._connection.sendall(request)
        self._answers = self._connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)  # no line: its parent is gone too
            self._connection.close()
        return self.returncode


class _Server:
    """Forks on request; `run` returns in each fork, with what it is to do."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._children: dict[int, socket.socket] = {}
        self._tags: dict[int, str | None] = {}
        self._selector = selectors.DefaultSelector()
        self._wakeup, write_end = os.pipe()
        for descriptor in (self._wakeup, write_end):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # what comes of it is the byte in the pipe
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def run(self) -> dict[str, Any] | None:
        for source in (self._listener, self._wakeup, sys.stdin.buffer):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            ready = [key for key, _ in self._selector.select()]
            sources = [key.fileobj for key in ready]
            for key in ready:
                if key.data is not None and key.data in self._children:  # what stands for the fork has died
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
            if self._wakeup in sources:
                os.read(self._wakeup, 4096)
            self._report_the_dead()
            if self._listener in sources:
                request = self._answer(self._listener.accept()[0])
                if request is not None:
                    return request
            if sys.stdin.buffer in sources:
                for child in self._children:
                    os.kill(child, signal.SIGKILL)
                return None

    def _answer(self, connection: socket.socket) -> dict[str, Any] | None:
        """Returns the request in a fork, None in this process."""
        size, files, _, _ = socket.recv_fds(connection, 10, 3)
        data = b""
        while len(data) < int(size):
            data += connection.recv(int(size) - len(data))
        request: dict[str, Any] = json.loads(data)
        if "tag" in request:
            with connection:
                found = [child for child, tag in self._tags.items() if tag == request["tag"]]
                connection.sendall(json.dumps(found).encode() + b"\n")
            return None
        return self._fork(request, connection, files)

    def _fork(self, request: dict[str, Any], connection: socket.socket, files: list[int]) -> dict[str, Any] | None:
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            os.close(self._wakeup)
            self._selector.close()
            for other in (self._listener, connection, *self._children.values()):
                other.close()
            return request
        for file in files:
            os.close(file)
        self._children[child], self._tags[child] = connection, request["environment"].get(TAG)
        self._selector.register(connection, selectors.EVENT_READ, data=child)
        connection.sendall(b"%d\n" % child)
        return None

    def _report_the_dead(self) -> None:
        while self._children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            del self._tags[child]
            with self._children.pop(child) as connection:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(connection)
                with contextlib.suppress(OSError):  # nobody waits for it any more
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: dict[str, Any]) -> None:
    """Does what `python ARGUMENTS` does once it is started."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules["numpy"].random.seed()  # or all forks would draw the same numbers
    flags = [argument for argument in request["arguments"] if argument == "-u"]
    first, *rest = request["arguments"][len(flags) :]
    if first == "-m":
        sys.argv, sys.path[0] = rest, request["cwd"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        for argument in rest:
            # Ray Train asks a cluster about its actors, and looks for one on the machine: there may be several.
            if argument.startswith("--gcs-address="):
                os.environ["RAY_ADDRESS"] = argument.partition("=")[2]
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def main(path: str, *modules: str) -> None:
    for name in modules:
        importlib.import_module(name)
    assert "ray" not in sys.modules and "jobs" not in sys.modules
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # A fork has one thread. That of Arrow's allocator begins again in it by a handler of its own.
    assert sorted(names)[:-1] in ([], ["jemalloc_bg_thd"]), names
    gc.freeze()  # a collection in a fork would write to every page that it shares with this process
    server = _Server(path)
    print("ready", flush=True)
    request = server.run()
    if request is not None:
        _become(request)


if __name__ == "__main__":
    main(*sys.argv[1:])
