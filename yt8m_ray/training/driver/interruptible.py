"""A long call in a thread, while the main thread handles signals: the first asks the call to end, a second ends it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

logger = logging.getLogger(__name__)

# A run has so long for its last step and checkpoint when it is interrupted or terminated.
STOP_TIMEOUT_S = 60.0
# The exit code of a process that SIGTERM ended, and of a run that is ended from outside.
TERMINATED = 143
_INTERVAL_S = 0.2


class StopRequested(SystemExit):
    """Raised by a `tick`: the call is to end as after a signal."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


T = TypeVar("T")


def run_interruptibly(
    call: Callable[[], T],
    *,
    tick: Callable[[], None],
    ask_to_stop: Callable[[], bool],
    timeout_s: float = STOP_TIMEOUT_S,
) -> T:
    """Runs `call` in a thread of its own and returns or raises what it does.

    `tick` runs several times a second meanwhile, and once more when the call has ended. After a signal, or a
    StopRequested of `tick`, `ask_to_stop` asks the call to end within `timeout_s`, and returns False where there is
    nothing to wait for; then KeyboardInterrupt or SystemExit is raised. A second signal does not wait.
    """
    outcome: Future[T] = Future()
    # Not Thread.join, which, interrupted, takes a thread for dead that is not (bpo-45274), nor a wait for `outcome`,
    # whose lock an interruption could leave locked.
    done = threading.Event()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            outcome.set_exception(error)
        finally:
            done.set()

    # The call is not in the main thread: Ray's own handler, set where `fit` runs there, would end with status 0.
    threading.Thread(target=run, daemon=True).start()
    signal: BaseException | None = None
    deadline = float("inf")
    while not done.is_set() and time.monotonic() < deadline:
        # The loop is inside, since a signal comes at any line.
        try:
            while not done.wait(_INTERVAL_S) and time.monotonic() < deadline:
                tick()
        except (KeyboardInterrupt, SystemExit) as error:
            if signal is not None or not ask_to_stop():
                raise
            signal, deadline = error, time.monotonic() + timeout_s
            logger.warning(
                "stopping behind this step with a checkpoint, within %g s; a second signal stops at once", timeout_s
            )
    # The call has ended already.
    with contextlib.suppress(StopRequested):
        tick()
    if signal is None:
        return outcome.result()
    if not done.is_set():
        logger.warning("no checkpoint was written in %g s", timeout_s)
    elif (failure := outcome.exception()) is not None:
        text = str(failure).strip() or repr(failure)
        logger.warning("the workers did not end in order: %s", text.splitlines()[-1])
    raise signal
