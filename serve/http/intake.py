"""Bodies on their way to rows: how many bytes of them a replica holds, and the one thread that decodes them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from serve.errors import CLOSE, OverloadedError, RequestError
from serve.settings import Limits

T = TypeVar("T")
V = TypeVar("V")

INLINE_BYTES = 2**20
"""A longer body is decoded in a thread, whatever it is, and may not take the last of the room."""

_SMALL_SHARE = 4
"""This part of the room is for bodies up to INLINE_BYTES: a few long ones that are half sent shut none of them out."""

_TIMES = 40.0
"""A refusal waits so many times what it cost: who sends one such body after the other takes a fortieth of a core."""

_LONGEST_S = 2.0
"""No refusal waits longer: one that cost C seconds, more than a twentieth, takes C / (C + 2) of a core instead."""

_SECONDS_A_BYTE = 2e-9
"""What receiving a body costs this process, about."""


class Intake:
    """Bounds what all requests together hold in memory before they are rows.

    Bodies that are not decoded in the event loop are decoded one after the other: several threads would not be quicker,
    since each needs Python, but would take turns with the event loop and the model's thread.

    Args:
        limits: Asked anew for each decision.
    """

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    @property
    def num_bytes(self) -> int:
        """Bytes that are held."""
        return self._num_bytes

    def hold(self) -> Hold:
        """Returns what one request holds: nothing yet."""
        return Hold(self)

    def add(self, num_bytes: int, *, held: int = 0) -> None:
        """Adds bytes; a body that is alone is not refused, however small the limit is.

        Args:
            num_bytes: How many.
            held: What is held of the same body already.

        Raises:
            OverloadedError: there is no room for them beside those of other requests.
        """
        with self._lock:
            most = self._limits().max_pending_bytes
            if held + num_bytes > INLINE_BYTES:
                most -= most // _SMALL_SHARE
            if self._num_bytes and self._num_bytes + num_bytes > most:
                message = f"bodies of {self._num_bytes} bytes are being read already, at most {most} are"
                raise OverloadedError(message, retry_after_s=1, headers=CLOSE)
            self._num_bytes += num_bytes

    def remove(self, num_bytes: int) -> None:
        """Takes bytes off again; may be called in any thread."""
        with self._lock:
            self._num_bytes -= num_bytes

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Lets the decoder's thread call a function."""
        return self._decoder.submit(function)


class Hold:
    """The bytes that one request holds, until they are released, as the end of a `with` block does."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._num_bytes = 0
        self._job: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Holds no more what was added so far, once it is not being decoded any more."""
        num_bytes, self._num_bytes = self._num_bytes, 0
        if self._job is None:
            self._intake.remove(num_bytes)
        else:
            self._job.add_done_callback(lambda _: self._intake.remove(num_bytes))

    def add(self, num_bytes: int) -> None:
        """Adds bytes that have arrived; see `Intake.add`."""
        self._intake.add(num_bytes, held=self._num_bytes)
        self._num_bytes += num_bytes

    async def decode(
        self, function: Callable[[], T], deadline: float, *, at_once: Callable[[], T | None] | None = None
    ) -> T:
        """Returns what a function returns in the decoder's thread; a refusal comes late by all that it has cost.

        Args:
            function: Raises RequestError where the body is wrong.
            deadline: On the clock of the event loop.
            at_once: Called before, in the event loop; None of it leaves the body to `function`.

        Raises:
            RequestError: of the functions; or the deadline passed (504), and `function` is called no more, or for
                nobody.
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
            await asyncio.sleep(max(0.0, min(_TIMES * cost, _LONGEST_S, left)))
            raise
