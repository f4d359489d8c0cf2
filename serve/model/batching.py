"""One thread that runs models, behind a queue that makes a batch of whatever waits; no video waits for others."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serve.errors import OverloadedError, RequestError
from serve.settings import Limits
from yt8m_ray.data.format.features import VideoRow

# Of the last batch in the moving average of the seconds a batch.
_SHARE_OF_LAST = 0.2


@dataclass(frozen=True)
class Answer:
    """The best classes of one video, best first, as many as were asked for."""

    class_ids: list[int]
    scores: list[float]
    queue_s: float  # from arrival to the start of its batch
    model_s: float  # of the whole batch


Best = tuple[list[int], list[float]]  # class ids and scores of a video, best first


class BatchModel(Protocol):
    """What the thread runs: models that are compared by identity and allow weak references."""

    @property
    def version(self) -> str: ...

    def best_classes(self, rows: Sequence[VideoRow], top_k: int) -> Sequence[Best | RequestError]:
        """Returns the answer to each row; an error is that row's alone."""
        ...


@dataclass
class _Waiting:
    model: BatchModel
    row: VideoRow
    top_k: int
    future: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.perf_counter)


class Pace:
    """How large the batches of a model may be, found by trying, after Clipper (Crankshaw et al., NSDI 2017)."""

    # Any size up to the limit is tried at once. A batch that takes too long makes the next ones smaller, by half at
    # most, since it may have been held up; a full one that is fast enough lets them grow by one video. So a wrong guess
    # does not last.

    def __init__(self) -> None:
        self._largest = math.inf
        self._elapsed: float | None = None

    def learn(self, size: int, elapsed: float, limits: Limits) -> None:
        before = elapsed if self._elapsed is None else self._elapsed
        self._elapsed = before + _SHARE_OF_LAST * (elapsed - before)
        largest = min(self._largest, limits.max_batch_size)
        if elapsed > limits.target_latency_s:
            self._largest = max(1.0, min(size * limits.target_latency_s / elapsed, largest), largest / 2)
        elif size >= int(largest):
            self._largest = largest + 1

    def largest_batch(self, limits: Limits) -> int:
        return int(min(self._largest, limits.max_batch_size))

    def seconds(self, num_videos: int, limits: Limits) -> float:
        return math.ceil(num_videos / self.largest_batch(limits)) * (self._elapsed or 0.0)


class Batcher:
    """The queue and its thread; used in one event loop, and closed once.

    `limits` is called for each decision, since they change; `observe` with the model's version, the size and the
    seconds of each batch, after it is answered.
    """

    def __init__(self, limits: Callable[[], Limits], observe: Callable[[str, int, float], None]) -> None:
        self._limits = limits
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        # The event loop appends, the thread takes.
        self._queue: deque[_Waiting] = deque()
        self._closing = False
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes the thread
        self._lock = threading.Lock()  # of the paces
        # Weak: a model that is dropped leaves the memory, and a new one at its address inherits nothing.
        self._paces: weakref.WeakKeyDictionary[BatchModel, Pace] = weakref.WeakKeyDictionary()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def num_queued(self) -> int:
        """Videos that wait, without those that are being computed."""
        return len(self._queue)

    def check_room(self, num_videos: int = 1) -> None:
        """Checks that so many videos would be queued now; OverloadedError says when to retry."""
        limits = self._limits()
        # A request that is larger than the whole queue is taken when the queue is empty.
        num_queued = self.num_queued
        if not num_queued:
            return
        with self._lock:
            paces = list(self._paces.values())
        seconds = max((pace.seconds(num_queued, limits) for pace in paces), default=0.0)
        if num_queued + num_videos > limits.max_queued_videos or seconds > limits.max_queue_s:
            message = f"{num_queued} videos wait already, some {seconds:.1f} s"
            # The header has whole seconds, and after 0 clients would retry at once.
            raise OverloadedError(message, retry_after_s=max(1, math.ceil(seconds)))

    def ask(self, model: BatchModel, rows: Sequence[VideoRow], top_k: int) -> list[asyncio.Future[Answer]]:
        """Queues videos and returns their answers; a future that is cancelled before its batch is not computed.

        OverloadedError if there is no room for all of them, RuntimeError if the thread has ended.
        """
        self.check_alive()
        self.check_room(len(rows))
        waiting = [_Waiting(model, row, top_k, self._loop.create_future()) for row in rows]
        futures = [each.future for each in waiting]
        self._queue.extend(waiting)
        self._wake()
        return futures

    @property
    def is_alive(self) -> bool:
        return not self._closing and self._thread.is_alive()

    def check_alive(self) -> None:
        if not self.is_alive:
            raise RuntimeError("the thread of the models has ended")

    def close(self) -> None:
        # The thread answers what is queued before it ends.
        self._closing = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        # One signal is enough for many videos: the thread takes it, and then looks at the whole queue.
        if self._signals.empty():
            self._signals.put(None)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        # A call of its own: its variables would keep a dropped model in memory while the thread waits.
        batch = self._next_batch()
        if not batch:
            return False
        started = time.perf_counter()
        model = batch[0].model
        try:
            # The best k classes are the first k of any longer list: one call serves every request's own top_k.
            best = model.best_classes([each.row for each in batch], max(each.top_k for each in batch))
            if len(best) != len(batch):
                raise RuntimeError(f"the model answered {len(best)} of {len(batch)} videos")
        except Exception as error:  # noqa: BLE001 - those who asked get it, and the thread goes on
            self._call_in_loop(_fail, batch, error)
            return True
        elapsed = time.perf_counter() - started
        with self._lock:
            self._paces.setdefault(model, Pace()).learn(len(batch), elapsed, self._limits())
        self._call_in_loop(self._resolve, model.version, batch, best, started, elapsed)
        return True

    def _call_in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _next_batch(self) -> list[_Waiting]:
        """Waits for videos and returns those of one model, in their order; none when it closes."""
        while True:
            # A cancelled request, for which nobody waits any more.
            while self._queue and self._queue[0].future.done():
                self._queue.popleft()
            if self._queue:
                break
            if self._closing:
                return []
            self._signals.get()
        # Whatever has arrived while the thread computed: batches grow with the load, up to the largest size.
        model = self._queue[0].model
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        with self._lock:
            largest = self._paces.get(model, Pace()).largest_batch(self._limits())
        while self._queue and len(batch) < largest:
            each = self._queue.popleft()
            if each.model is not model:
                others.append(each)
            elif not each.future.done():
                batch.append(each)
        self._queue.extendleft(reversed(others))
        return batch

    def _resolve(
        self,
        version: str,
        batch: Sequence[_Waiting],
        best: Sequence[Best | RequestError],
        started: float,
        elapsed: float,
    ) -> None:
        for each, found in zip(batch, best, strict=True):
            if each.future.done():
                continue
            if isinstance(found, RequestError):
                each.future.set_exception(found)
            else:
                (class_ids, scores), top_k = found, each.top_k
                each.future.set_result(Answer(class_ids[:top_k], scores[:top_k], started - each.arrived, elapsed))
        # After the tasks that wait for the answers, in the queue of the event loop.
        self._loop.call_soon(self._observe, version, len(batch), elapsed)


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for each in batch:
        if not each.future.done():
            each.future.set_exception(error)
