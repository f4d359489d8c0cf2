"""Commands as a user types them: each in a session of its own, watched while it runs, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from tests.support.warm import TAG, Fork, WarmPython

ROOT = Path(__file__).resolve().parents[2]

PATIENCE_S = 240.0
"""Until a command is taken to hang; ten times what any needs where nothing else runs."""


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, and its output by stream."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> str:
        """The last line of stdout."""
        return self.stdout.splitlines()[-1]


class Command:
    """A running command; at the end of its `with` block it and all it started are gone.

    Args:
        arguments: The command line.
        folder: Where its output is kept.
        environment: Variables to add to those of this process.
        warm: Starts it, if the command is this Python's.
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        warm: WarmPython | None = None,
    ) -> None:
        self._tag, self._warm = uuid.uuid4().hex, warm
        self._paths = [folder / f"{self._tag}.{stream}" for stream in ("stdout", "stderr")]
        variables = {**os.environ, **(environment or {}), TAG: self._tag}
        self._process: subprocess.Popen[bytes] | Fork
        with open(os.devnull, "rb") as stdin, self._paths[0].open("wb") as stdout, self._paths[1].open("wb") as stderr:
            if warm is not None and arguments[0] == sys.executable:
                self._process = warm.start(arguments[1:], ROOT, variables, stdin, stdout, stderr)
            else:
                streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
                self._process = subprocess.Popen(arguments, cwd=ROOT, env=variables, start_new_session=True, **streams)

    @property
    def stdout(self) -> str:
        return self._paths[0].read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._paths[1].read_text(encoding="utf-8")

    def wait(self, timeout_s: float = PATIENCE_S) -> Outcome:
        """Returns what the command left when it ends by itself."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the command runs on after {timeout_s:g} s\n{self.stdout[-1000:]}\n{self.stderr[-3000:]}")
        return Outcome(code, self.stdout, self.stderr)

    def wait_until(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Returns when `condition` holds; fails if the command ends before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"exit {self._process.poll()} too early\n{self.stdout[-1000:]}\n{self.stderr[-3000:]}")
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        """Interrupts the whole process group, as a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def send(self, number: signal.Signals) -> None:
        """Signals the command's own process alone."""
        os.kill(self._process.pid, number)

    def processes(self) -> list[psutil.Process]:
        """Returns the command and all that it has started and that still runs."""
        return self._alive()

    def leftovers(self, grace_s: float = 90) -> list[str]:
        """Returns the command lines of what is still there `grace_s` after the command ended."""
        # After a SIGKILL, Ray's two agents of a node report the death of their raylet before they end, and try for 60 s
        # where the GCS was gone first (seen on Ray 2.60 alone: 61 s).
        deadline = time.monotonic() + grace_s
        while (processes := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [_describe(process) for process in processes]

    def _alive(self) -> list[psutil.Process]:
        forks = [] if self._warm is None else self._warm.forks_of(self._tag)
        return [process for process in psutil.process_iter() if process.pid in forks or _tag_of(process) == self._tag]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends the command and all that it has started."""
        descendants = self._descendants()  # once an agent of Ray was not found by its environment, and stayed
        while processes := self._alive():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=5)
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _tag_of(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(TAG)
    except (psutil.Error, OSError):
        return None


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    except psutil.Error:
        return str(process.pid)
