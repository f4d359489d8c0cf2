"""A long call beside the main thread, which hears signals: the first asks the call to end, a second ends it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 60.0
"""Seconds that a run has for its last step and checkpoint when it is interrupted or terminated."""

_INTERVAL_S = 0.2

TERMINATED = 143
"""The exit code of a process that SIGTERM ended, and of a run that is ended from outside."""


class StopRequested(SystemExit):
    """Raised by a `tick`: the call is to end as after a signal."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


T = TypeVar("T")


def run_interruptibly(call: Callable[[], T], *, tick: Callable[[], None], ask_to_stop: Callable[[], bool]) -> T:
    """Runs `call` beside the main thread and returns what it does.

    The main thread stays free for Ctrl-C; Ray's own handler, set where `fit` runs in it, would end with status 0.

    Args:
        call: Runs in a thread of its own.
        tick: Called several times a second meanwhile, and once more when it has ended.
        ask_to_stop: Asks `call` to end soon; False where there is nothing to wait for.

    Raises:
        KeyboardInterrupt, SystemExit: a signal came, or `tick` raised StopRequested; `call` has ended since, or did not
            in STOP_TIMEOUT_S, or a second signal came.
    """
    results: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failure.append(error)
        finally:
            done.set()

    done = threading.Event()  # Thread.join, interrupted, takes a thread for dead that is not (bpo-45274)
    threading.Thread(target=run, daemon=True).start()
    signal: BaseException | None = None
    deadline = float("inf")
    while not done.is_set() and time.monotonic() < deadline:
        try:
            while not done.wait(_INTERVAL_S) and time.monotonic() < deadline:  # inside: a signal comes at any line
                tick()
        except (KeyboardInterrupt, SystemExit) as error:
            if signal is not None or not ask_to_stop():
                raise
            signal, deadline = error, time.monotonic() + STOP_TIMEOUT_S
            logger.warning(
                "stopping behind this step with a checkpoint, within %g s; a second signal stops at once",
                STOP_TIMEOUT_S,
            )
    with contextlib.suppress(StopRequested):  # what has ended need not be asked
        tick()
    if signal is not None:
        if not done.is_set():
            logger.warning("no checkpoint was written in %g s", STOP_TIMEOUT_S)
        elif failure:
            text = str(failure[0]).strip() or repr(failure[0])
            logger.warning("the workers did not end in order: %s", text.splitlines()[-1])
        raise signal
    if failure:
        raise failure[0]
    return results[0]
