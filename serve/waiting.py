"""A request waits for the model: until it has answered, the deadline passes, or the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Request
from starlette.requests import ClientDisconnect

from serve.access import HAS_LEFT, note_stage
from serve.batching import Answer
from serve.errors import RequestError
from serve.hosting import HostedModel
from serve.service import Service
from yt8m_ray.data.features import VideoRow

_PATIENCE_S = 0.05
"""After which a client that waits is looked for. Whoever is answered sooner does not pay for it."""


async def wait_for(
    service: Service, model: HostedModel, rows: Sequence[VideoRow], top_k: int, deadline: float, request: Request
) -> list[Answer]:
    """Returns the answers to videos; what was asked for a client that has gone is not computed.

    Args:
        service: The replica.
        model: Answers them.
        rows: The videos.
        top_k: Classes a video.
        deadline: When the answer is due, on the clock of the event loop.
        request: Its body has been read.

    Raises:
        RequestError: there is no room in the queue (503), or the deadline passed (504).
        ClientDisconnect: nobody waits any more.
    """
    departure = _Departure(request)
    try:
        async with asyncio.timeout_at(deadline):
            # Last of all: from here on the model's thread wants its turn of Python.
            departure.futures = futures = service.ask(model, rows, top_k)
            # A lone future wakes this task itself; gathering takes another turn of the event loop.
            answers = [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
    except TimeoutError:
        raise RequestError(504, "the deadline passed before the model had answered") from None
    except asyncio.CancelledError:
        if departure.has_happened:
            request.scope[HAS_LEFT] = True
            raise ClientDisconnect from None
        raise
    finally:
        departure.forget()
    for answer in answers:
        note_stage(request, "queue", answer.queue_s)
        note_stage(request, "model", answer.model_s)
    return answers


class _Departure:
    """Cancels futures when the client goes away. Ray Serve does so too, but not behind our HAProxy: see its wrapper."""

    def __init__(self, request: Request) -> None:
        self.has_happened = False
        self.futures: Sequence[asyncio.Future[Answer]] = ()
        self._request = request
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._begin)

    def forget(self) -> None:
        """Stops looking."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.has_happened = True
        for future in self.futures:
            future.cancel()
