"""The steps that the prediction routes share: deadline, query, body, decoding, the model's answers, encoding."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import pydantic
from fastapi import Request
from starlette.requests import ClientDisconnect

from serve.errors import CLOSE, RequestError
from serve.http.access_log import HAS_LEFT, NOTES, note_stage
from serve.http.encodings import IDENTITY, content_encoding, unpack
from serve.http.intake import INLINE_BYTES, Hold
from serve.http.service import Service
from serve.http.video_input import ModelInput, json_text, validate_json
from serve.model.batching import Answer
from serve.model.hosted_model import HostedModel
from serve.settings import Limits
from yt8m_ray.data.format.features import VideoRow

DEADLINE_HEADER = "x-request-timeout-seconds"  # Ray Serve's proxy reads the same one

# An answer of so many is written in the event loop, in less time than a thread takes to start.
_FEW_LABELS = 1000
# A disconnect is looked for after this time: a request that is answered sooner costs nothing.
_WATCH_AFTER_S = 0.05

T = TypeVar("T")
A = TypeVar("A", bound=ModelInput)
M = TypeVar("M", bound=pydantic.BaseModel)


def seconds_for(request: Request, service: Service) -> float:
    """Returns how many seconds the answer may take: what the client asks for, and no more than the limit."""
    seconds = service.limits.deadline_s
    given = request.headers.get(DEADLINE_HEADER)
    if given is not None:
        try:
            asked = float(given)
        except ValueError:
            asked = -1.0
        # `nan` is a number to Python, and fails this comparison.
        if not 0 < asked < float("inf"):
            raise RequestError(422, f"{DEADLINE_HEADER}: expected a positive number of seconds, found {given[:60]!r}")
        seconds = min(seconds, asked)
    return seconds


def query_parameters(request: Request, names: Iterable[str]) -> Mapping[str, str]:
    """Returns the query's parameters, each of which must be known and given once."""
    known, found = tuple(names), dict[str, str]()
    for key, value in request.query_params.multi_items():
        if key not in known:
            raise RequestError(422, f"query: unknown parameter {key[:60]!r}; valid: {', '.join(known)}")
        if key in found:
            raise RequestError(422, f"query: {key} is given more than once")
        found[key] = value
    return found


def check_announced(request: Request, max_bytes: int) -> None:
    """Checks the body's size that the header announces, if there is one."""
    size = request.headers.get("content-length", "")
    # 18 digits: Python refuses to read numbers of thousands, and any of 18 is too large already.
    if size.isascii() and size.isdigit() and int(size[:18]) > max_bytes:
        raise RequestError(413, f"body: at most {max_bytes} bytes, found {size[:18]}", headers=CLOSE)


async def read_body(request: Request, limits: Limits, hold: Hold, *, max_bytes: int | None = None) -> bytes:
    """Returns the body as it was sent; `max_bytes` replaces the limit of its size.

    RequestError if it is too large (413) or too slow (408), or if there is no room for it (503).
    """
    most = limits.max_body_bytes if max_bytes is None else max_bytes
    check_announced(request, most)
    started = time.perf_counter()
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise RequestError(413, f"body: at most {most} bytes, found more", headers=CLOSE)
                hold.add(len(chunk))
                parts.append(chunk)
    except TimeoutError:
        message = f"body: expected all of it within {limits.body_timeout_s:g} s, found {size} bytes until then"
        raise RequestError(408, message, headers=CLOSE) from None
    note_stage(request, "body", time.perf_counter() - started)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_json(request: Request, service: Service, model: type[M], *, max_bytes: int) -> M:
    """Returns a short JSON body, packed or not; an empty body stands for an empty object."""
    encoding = content_encoding(request)
    # It is read in the event loop, so `max_bytes` bounds it both as it is sent and as it is unpacked.
    with service.intake.hold() as hold:
        body = unpack(await read_body(request, service.limits, hold, max_bytes=max_bytes), encoding, max_bytes)
    return validate_json(model, json_text(body) or b"{}", strict=True)


async def ask_model(
    request: Request,
    service: Service,
    model: HostedModel,
    decode: Callable[[bytes], A],
    decode_at_once: Callable[[bytes], A | None] | None = None,
) -> tuple[A, list[Answer], float]:
    """Reads the body and returns what it asks for, the model's answers, and the deadline.

    `decode` reads the body in a thread; `decode_at_once` is tried before it, in the event loop, on a short body that is
    not packed. RequestError if the body is wrong, there is no room for it or the deadline passed; ClientDisconnect if
    the client has gone.
    """
    deadline = asyncio.get_running_loop().time() + seconds_for(request, service)
    # Before the body is read: a refusal must cost next to nothing.
    service.batcher.check_room()
    encoding, limits = content_encoding(request), service.limits
    with service.intake.hold() as hold:
        body = await read_body(request, limits, hold)
        started = time.perf_counter()
        at_once = None
        # Some microseconds in the event loop cost less than a thread; more would hold up other requests.
        if decode_at_once is not None and encoding == IDENTITY and len(body) <= INLINE_BYTES:
            at_once = functools.partial(decode_at_once, body)
        asked = await hold.decode(
            lambda: decode(unpack(body, encoding, limits.max_body_bytes)), deadline, at_once=at_once
        )
    note_stage(request, "decode", time.perf_counter() - started)
    request.scope[NOTES]["videos"] = len(asked.rows)
    return asked, await wait_for(service, model, asked.rows, asked.top_k, deadline, request), deadline


async def wait_for(
    service: Service, model: HostedModel, rows: Sequence[VideoRow], top_k: int, deadline: float, request: Request
) -> list[Answer]:
    """Returns the model's answers to videos; those of a client that disconnects are not computed.

    RequestError if there is no room in the queue (503) or the deadline passed (504), ClientDisconnect if the client has
    gone.
    """
    watcher = _DisconnectWatcher(request)
    try:
        async with asyncio.timeout_at(deadline):
            # Last of all: from here on the model's thread competes for Python's lock.
            watcher.futures = futures = service.batcher.ask(model, rows, top_k)
            # A lone future wakes this task itself; `gather` takes another turn of the event loop.
            answers = [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
    except TimeoutError:
        raise RequestError(504, "the deadline passed before the model had answered") from None
    except asyncio.CancelledError:
        if watcher.has_disconnected:
            request.scope[HAS_LEFT] = True
            raise ClientDisconnect from None
        raise
    finally:
        watcher.stop()
    for answer in answers:
        note_stage(request, "queue", answer.queue_s)
        note_stage(request, "model", answer.model_s)
    return answers


async def encode(request: Request, write: Callable[[], T], *, num_labels: int) -> T:
    """Returns what `write` returns; it is called in a thread if it has many labels to write."""
    started = time.perf_counter()
    written = write() if num_labels <= _FEW_LABELS else await asyncio.to_thread(write)
    note_stage(request, "encode", time.perf_counter() - started)
    return written


class _DisconnectWatcher:
    """Cancels futures when the client disconnects."""

    # Ray Serve does so too, but not behind HAProxy: see the wrapper in serve/haproxy.

    def __init__(self, request: Request) -> None:
        self.has_disconnected = False
        self.futures: Sequence[asyncio.Future[Answer]] = ()
        self._request = request
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.has_disconnected = True
        for future in self.futures:
            future.cancel()
