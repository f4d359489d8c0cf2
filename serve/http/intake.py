"""Bodies on their way to rows: a bound of the bytes that a replica holds, and the one thread that decodes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar

from serve.errors import CLOSE, OverloadedError, RequestError
from serve.settings import Limits

T = TypeVar("T")
V = TypeVar("V")

# A longer body is decoded in the thread, and may not take the part of the room that is kept for short ones: a few long
# bodies that are half sent must not shut out all others.
INLINE_BYTES = 2**20
_SHORT_PART = 4  # one part in so many

# A refusal is delayed by so many times its cost: a client that sends one such body after the other takes a fortieth of
# a core. The longest delay bounds that: a refusal of C seconds, more than a twentieth, takes C / (C + 2) of a core.
_DELAY_FACTOR = 40.0
_MAX_DELAY_S = 2.0
_SECONDS_A_BYTE = 2e-9  # what receiving a body costs this process, about


class Intake:
    """Bounds what all requests together hold in memory before they are rows; `limits` is called for each decision."""

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self._num_bytes = 0
        self._lock = threading.Lock()
        # One thread: several would not be faster, since each needs Python's lock, which the event loop and the model
        # need too.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def hold(self) -> Hold:
        return Hold(self)

    def add(self, num_bytes: int, *, held: int = 0) -> None:
        """Adds bytes to a body of which `held` are counted; OverloadedError if other bodies leave no room for them."""
        with self._lock:
            most = self._limits().max_pending_bytes
            if held + num_bytes > INLINE_BYTES:
                most -= most // _SHORT_PART
            # A body that is alone is taken, however small the limit is.
            if self._num_bytes and self._num_bytes + num_bytes > most:
                message = f"bodies of {self._num_bytes} bytes are being read already, at most {most} are"
                raise OverloadedError(message, retry_after_s=1, headers=CLOSE)
            self._num_bytes += num_bytes

    def remove(self, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes -= num_bytes

    def submit(self, function: Callable[[], T]) -> Future[T]:
        return self._decoder.submit(function)


class Hold:
    """The bytes that one request holds until they are released, at the latest at the end of a `with` block."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._num_bytes = 0
        self._job: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        num_bytes, self._num_bytes = self._num_bytes, 0
        # A body that the thread decodes stays in memory until it is done, whether or not its client has gone.
        if self._job is None:
            self._intake.remove(num_bytes)
        else:
            self._job.add_done_callback(lambda _: self._intake.remove(num_bytes))

    def add(self, num_bytes: int) -> None:
        self._intake.add(num_bytes, held=self._num_bytes)
        self._num_bytes += num_bytes

    async def decode(
        self, function: Callable[[], T], deadline: float, *, at_once: Callable[[], T | None] | None = None
    ) -> T:
        """Returns what a function returns in the decoder's thread; a refusal is delayed by a multiple of its cost.

        The deadline is on the clock of the event loop; RequestError 504 after it. `at_once` is called before, in the
        event loop; if it returns None, the body is left to `function`.
        """
        seconds = 0.0

        def timed(call: Callable[[], V]) -> V:
            nonlocal seconds
            started = time.perf_counter()
            try:
                return call()
            finally:
                seconds += time.perf_counter() - started

        try:
            found = None if at_once is None else timed(at_once)
            if found is not None:
                return found
            self._job = self._intake.submit(lambda: timed(function))
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(self._job)
        except TimeoutError:
            raise RequestError(504, "the deadline passed before the body was decoded") from None
        except RequestError:
            cost = seconds + self._num_bytes * _SECONDS_A_BYTE
            self.release()
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, min(_DELAY_FACTOR * cost, _MAX_DELAY_S, left)))
            raise
