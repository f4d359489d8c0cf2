from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from yt8m_ray.training.driver.interruptible import TERMINATED, StopRequested, run_interruptibly


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interruption:
    """Ctrl-C, once the main thread listens."""

    def __init__(self) -> None:
        self._is_heard = threading.Event()

    def tick(self) -> None:
        self._is_heard.set()

    def press(self) -> None:
        self._is_heard.wait()
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def ctrl_c(interruptible: None) -> Interruption:
    return Interruption()


def test_it_returns_what_the_call_returns(
    ctrl_c: Interruption,
) -> None:
    assert run_interruptibly(lambda: 3, tick=lambda: None, ask_to_stop=lambda: True) == 3


def test_it_raises_what_the_call_raises() -> None:
    with pytest.raises(KeyError, match="there"):
        run_interruptibly(lambda: {}["there"], tick=lambda: None, ask_to_stop=lambda: True)


def test_an_interruption_waits_for_the_call_to_end(ctrl_c: Interruption) -> None:
    asked, ended = threading.Event(), threading.Event()

    def call() -> None:
        ctrl_c.press()
        asked.wait()
        ended.set()

    def ask() -> bool:
        asked.set()
        return True

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(call, tick=ctrl_c.tick, ask_to_stop=ask)
    assert ended.is_set()


def test_a_call_that_fails_when_it_is_to_end_says_why(ctrl_c: Interruption, caplog: pytest.LogCaptureFixture) -> None:
    asked = threading.Event()

    def call() -> None:
        ctrl_c.press()
        asked.wait()
        raise OSError("traceback\nno space left")

    def ask() -> bool:
        asked.set()
        return True

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(call, tick=ctrl_c.tick, ask_to_stop=ask)
    assert "the workers did not end in order: no space left" in caplog.text


def test_a_second_interruption_waits_for_nothing(ctrl_c: Interruption) -> None:
    never, asked = threading.Event(), threading.Event()

    def call() -> None:
        ctrl_c.press()
        asked.wait()
        ctrl_c.press()
        never.wait()

    def ask() -> bool:
        asked.set()
        return True

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(call, tick=ctrl_c.tick, ask_to_stop=ask)
    never.set()


def test_where_nobody_works_yet_an_interruption_waits_for_nothing(ctrl_c: Interruption) -> None:
    never = threading.Event()

    def call() -> None:
        ctrl_c.press()
        never.wait()

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(call, tick=ctrl_c.tick, ask_to_stop=lambda: False)
    never.set()


def test_a_call_that_does_not_end_is_left(ctrl_c: Interruption) -> None:
    never = threading.Event()

    def call() -> None:
        ctrl_c.press()
        never.wait()

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(call, tick=ctrl_c.tick, ask_to_stop=lambda: True, timeout_s=0.1)
    never.set()


class Request:
    """A `tick` that wants the call to end, and says so once."""

    def __init__(self) -> None:
        self.num_raised = 0

    def __call__(self) -> None:
        if not self.num_raised:
            self.num_raised += 1
            raise StopRequested


def test_a_request_waits_for_the_call_to_end() -> None:
    asked, ended = threading.Event(), threading.Event()

    def call() -> None:
        asked.wait()
        ended.set()

    def ask() -> bool:
        asked.set()
        return True

    with pytest.raises(StopRequested) as caught:
        run_interruptibly(call, tick=Request(), ask_to_stop=ask)
    assert ended.is_set()
    assert caught.value.code == TERMINATED == 128 + signal.SIGTERM


def test_a_request_where_nobody_works_yet_waits_for_nothing() -> None:
    never = threading.Event()

    with pytest.raises(StopRequested):
        run_interruptibly(never.wait, tick=Request(), ask_to_stop=lambda: False)
    never.set()


def test_an_interruption_behind_a_request_waits_for_nothing(interruptible: None) -> None:
    never, asked = threading.Event(), threading.Event()

    def call() -> None:
        asked.wait()
        os.kill(os.getpid(), signal.SIGINT)
        never.wait()

    def ask() -> bool:
        asked.set()
        return True

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(call, tick=Request(), ask_to_stop=ask)
    never.set()
