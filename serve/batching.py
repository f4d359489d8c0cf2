"""One thread that runs models, behind a queue that batches whatever waits: no request waits for company.

Lives here: the queue, its limits and the size of batches. Does not live here: what a model answers (`serve.hosting`),
and HTTP. A lone video is computed at once; while the thread computes, others gather and are the next batch. So batches
grow with the load alone, up to `max_batch_size` and to what the model can compute within `target_latency_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serve.errors import OverloadedError
from serve.schemas import Limits
from yt8m_ray.data.features import VideoRow

_SHARE_OF_LAST = 0.2
"""Of the moving averages of what a batch takes."""

_LEAST_VARIANCE = 0.01
"""Of the sizes of batches: below it they are one size, of which no line can be made."""


@dataclass(frozen=True)
class Answer:
    """The best classes of one video, best first, and where its time went.

    Attributes:
        class_ids, scores: As many as were asked for.
        queue_s: From arrival to the begin of its batch.
        model_s: Of the whole batch.
    """

    class_ids: list[int]
    scores: list[float]
    queue_s: float
    model_s: float


class BatchModel(Protocol):
    """What the thread runs; models are told apart by identity, and can be referred to weakly."""

    def best_classes(self, rows: Sequence[VideoRow], top_k: int) -> list[tuple[list[int], list[float]]]:
        """Returns class ids and scores of each row, best first."""
        ...


@dataclass
class _Waiting:
    model: BatchModel
    row: VideoRow
    top_k: int
    future: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.perf_counter)


class Pace:
    """What a batch of a model takes: a fixed time and a time a video, by moving averages of the batches so far.

    A model reads its weights once a batch: a lone video may take as long as ten, and says nothing about them.
    """

    def __init__(self) -> None:
        self._size = self._elapsed = self._variance = self._covariance = 0.0
        self._is_new = True

    def learn(self, size: int, elapsed: float) -> None:
        """Takes the size and the seconds of a batch."""
        share = 1.0 if self._is_new else _SHARE_OF_LAST
        self._is_new = False
        off_size, off_elapsed = size - self._size, elapsed - self._elapsed
        self._size += share * off_size
        self._elapsed += share * off_elapsed
        self._variance = (1 - share) * (self._variance + share * off_size**2)
        self._covariance = (1 - share) * (self._covariance + share * off_size * off_elapsed)

    def largest_batch(self, limits: Limits) -> int:
        """Returns how many videos can be computed within the latency that is aimed at."""
        fixed, a_video = self._line()
        if fixed + a_video * limits.max_batch_size <= limits.target_latency_s:
            return limits.max_batch_size
        return max(1, min(limits.max_batch_size, int((limits.target_latency_s - fixed) / max(a_video, 1e-9))))

    def seconds(self, num_videos: int, limits: Limits) -> float:
        """Returns how long as many videos take in batches."""
        fixed, a_video = self._line()
        return num_videos * a_video + math.ceil(num_videos / self.largest_batch(limits)) * fixed

    def _line(self) -> tuple[float, float]:
        """Returns the fixed seconds and those of a video; all is fixed until sizes have differed."""
        slope = max(self._covariance / self._variance, 0.0) if self._variance > _LEAST_VARIANCE else 0.0
        slope = min(slope, self._elapsed / max(self._size, 1.0))  # else the fixed time would be negative
        return self._elapsed - slope * self._size, slope


class Batcher:
    """The queue and its thread; made and asked in one event loop, and closed once.

    Args:
        limits: Asked anew for each decision: an operator may change them at any time.
        observe: Told the size and the seconds of each batch, in the thread.
    """

    def __init__(self, limits: Callable[[], Limits], observe: Callable[[int, float], None]) -> None:
        self._limits = limits
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._closing = False
        # Weak: a model that is dropped leaves the memory, and a new one at its address inherits nothing.
        self._paces: weakref.WeakKeyDictionary[BatchModel, Pace] = weakref.WeakKeyDictionary()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def num_queued(self) -> int:
        """Videos that wait; those that are being computed do not count."""
        return len(self._queue)

    def check_room(self, num_videos: int = 1) -> None:
        """Checks that as many videos would be taken now; asked before a body is read, so that a refusal is cheap.

        Raises:
            OverloadedError: the queue is full; says when to come again.
        """
        limits = self._limits()
        # What waits already, and not the request itself: one that is larger than the queue is taken when it is empty.
        num_queued = self.num_queued
        if not num_queued:
            return
        with self._changed:
            paces = list(self._paces.values())
        seconds = max((pace.seconds(num_queued, limits) for pace in paces), default=0.0)
        if num_queued + num_videos > limits.max_queued_videos or seconds > limits.max_queue_s:
            message = f"{num_queued} videos wait already, some {seconds:.1f} s"
            raise OverloadedError(message, retry_after_s=max(1, math.ceil(seconds)))

    def ask(self, model: BatchModel, rows: Sequence[VideoRow], top_k: int) -> list[asyncio.Future[Answer]]:
        """Queues videos and returns their answers to be; a future that is cancelled in time is not computed.

        Raises:
            OverloadedError: there is no room for all of them.
            RuntimeError: nobody would answer: the thread has ended.
        """
        self.check_alive()
        self.check_room(len(rows))
        waiting = [_Waiting(model, row, top_k, self._loop.create_future()) for row in rows]
        with self._changed:
            self._queue.extend(waiting)
            self._changed.notify()
        return [each.future for each in waiting]

    @property
    def is_alive(self) -> bool:
        """Whether videos will be answered."""
        return not self._closing and self._thread.is_alive()

    def check_alive(self) -> None:
        """Raises RuntimeError if the thread has ended, which it does not before `close`."""
        if not self.is_alive:
            raise RuntimeError("the thread of the models has ended")

    def close(self) -> None:
        """Ends the thread after what is queued."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Computes one batch. Its own call, so that while the thread waits it holds no model that has been dropped."""
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
        except Exception as error:  # noqa: BLE001 - it is told to those who asked, and the thread goes on
            self._tell(_fail, batch, error)
            return True
        elapsed = time.perf_counter() - started
        self._learn(model, len(batch), elapsed)
        self._tell(_resolve, batch, best, started, elapsed)
        self._observe(len(batch), elapsed)
        return True

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        """Calls a function in the event loop; when that is closed nobody waits any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _next_batch(self) -> list[_Waiting]:
        """Waits for videos and returns those of one model, in their order; none when the batcher closes."""
        with self._changed:
            while True:
                while self._queue and self._queue[0].future.done():  # nobody waits for it any more
                    self._queue.popleft()
                if self._queue:
                    break
                if self._closing:
                    return []
                self._changed.wait()
            model = self._queue[0].model
            batch: list[_Waiting] = []
            others: list[_Waiting] = []
            largest = self._largest_batch(model)
            while self._queue and len(batch) < largest:
                each = self._queue.popleft()
                if each.model is not model:
                    others.append(each)
                elif not each.future.done():
                    batch.append(each)
            self._queue.extendleft(reversed(others))
            return batch

    def _largest_batch(self, model: BatchModel) -> int:
        return self._paces.get(model, Pace()).largest_batch(self._limits())

    def _learn(self, model: BatchModel, size: int, elapsed: float) -> None:
        with self._changed:
            self._paces.setdefault(model, Pace()).learn(size, elapsed)


def _resolve(
    batch: Sequence[_Waiting], best: Sequence[tuple[list[int], list[float]]], started: float, elapsed: float
) -> None:
    for each, (class_ids, scores) in zip(batch, best, strict=True):
        if not each.future.done():
            top_k = each.top_k
            each.future.set_result(Answer(class_ids[:top_k], scores[:top_k], started - each.arrived, elapsed))


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for each in batch:
        if not each.future.done():
            each.future.set_exception(error)
