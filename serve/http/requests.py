"""What all routes do with a request before its body means anything: tokens, deadlines, query, body."""

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
from serve.http.access_log import HAS_LEFT, note_stage
from serve.http.encodings import IDENTITY, content_encoding, unpack
from serve.http.intake import INLINE_BYTES, Hold
from serve.http.service import Service
from serve.http.video_input import invalid_json, json_text
from serve.model.batching import Answer
from serve.model.hosted_model import HostedModel
from serve.settings import Limits
from yt8m_ray.data.format.features import VideoRow

DEADLINE_HEADER = "x-request-timeout-seconds"
"""Seconds that a client waits; Ray Serve's proxy reads the same header."""

T = TypeVar("T")
M = TypeVar("M", bound=pydantic.BaseModel)


def check_token(request: Request, service: Service) -> None:
    """Checks that a client may ask; RequestError 401 says what was missing."""
    tokens = service.client_tokens
    if tokens.is_set and not tokens.accepts(request.headers.get("authorization", "")):
        challenge = {"www-authenticate": "Bearer"}
        raise RequestError(401, "authorization: expected Bearer and a token of this service", headers=challenge)


def deadline_of(request: Request, service: Service) -> float:
    """Returns when the answer is due, on the clock of the event loop."""
    return asyncio.get_running_loop().time() + seconds_for(request, service)


def seconds_for(request: Request, service: Service) -> float:
    """Returns what the answer may take: what the client asks for, and no more than the limit."""
    seconds = service.limits.deadline_s
    given = request.headers.get(DEADLINE_HEADER)
    if given is not None:
        try:
            asked = float(given)
        except ValueError:
            asked = -1.0
        if not 0 < asked < float("inf"):
            raise RequestError(422, f"{DEADLINE_HEADER}: expected a positive number of seconds, found {given[:60]!r}")
        seconds = min(seconds, asked)
    return seconds


def query_parameters(request: Request, names: Iterable[str]) -> Mapping[str, str]:
    """Returns the query's parameters, each of which is known and given once."""
    known, found = tuple(names), dict[str, str]()
    for key, value in request.query_params.multi_items():
        if key not in known:
            raise RequestError(422, f"query: unknown parameter {key[:60]!r}; valid: {', '.join(known)}")
        if key in found:
            raise RequestError(422, f"query: {key} is given more than once")
        found[key] = value
    return found


def check_announced(request: Request, max_bytes: int) -> None:
    """Checks the size that the body is said to have, where it is said."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:18]) > max_bytes:
        raise RequestError(413, f"body: at most {max_bytes} bytes, found {told[:18]}", headers=CLOSE)


async def read_body(request: Request, limits: Limits, hold: Hold, *, max_bytes: int | None = None) -> bytes:
    """Returns the body as it was sent.

    Args:
        request: Nothing of its body has been read.
        limits: Of the body's size and time.
        hold: Takes account of its bytes.
        max_bytes: Its longest size, where it is not that of the limits.

    Raises:
        RequestError: it says or turns out to be too large, is too slow, or there is no room for it.
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
    """Returns a short body of JSON, packed or not; one of no bytes is taken for an empty object.

    Args:
        request: Nothing of its body has been read.
        service: Its limits.
        model: Type of the body.
        max_bytes: Longest body, as it is sent and unpacked: so much is read in the event loop.

    Raises:
        RequestError: the body cannot be had or is wrong.
    """
    encoding = content_encoding(request)
    with service.intake.hold() as hold:
        body = unpack(await read_body(request, service.limits, hold, max_bytes=max_bytes), encoding, max_bytes)
    try:
        return model.model_validate_json(json_text(body) or b"{}", strict=True)
    except pydantic.ValidationError as error:
        raise invalid_json(error) from None


async def decode_body(
    request: Request,
    service: Service,
    deadline: float,
    decode: Callable[[bytes], T],
    decode_at_once: Callable[[bytes], T | None] | None = None,
) -> T:
    """Reads the body and returns what is made of it.

    Args:
        request: Nothing of its body has been read.
        service: Its limits, and its thread for decoding.
        deadline: Of the answer, on the clock of the event loop.
        decode: Called in the thread: what takes long must not hold up other requests.
        decode_at_once: Asked before, in the event loop, about a short body that is not packed: a body that it can make
            something of in some microseconds is not handed over; None leaves it to `decode`.

    Raises:
        RequestError: the body cannot be had or is wrong, or the deadline passed.
    """
    encoding, limits = content_encoding(request), service.limits
    with service.intake.hold() as hold:
        body = await read_body(request, limits, hold)
        started = time.perf_counter()
        at_once = None
        if decode_at_once is not None and encoding == IDENTITY and len(body) <= INLINE_BYTES:
            at_once = functools.partial(decode_at_once, body)
        found = await hold.decode(
            lambda: decode(unpack(body, encoding, limits.max_body_bytes)), deadline, at_once=at_once
        )
    note_stage(request, "decode", time.perf_counter() - started)
    return found


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
    departure = _DisconnectWatcher(request)
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


class _DisconnectWatcher:
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
