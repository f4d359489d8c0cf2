"""Clients that are slow, silent, or lie about their length: what becomes of them, and of the others meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Client, Question, closed_loop, read_reply
from benchmarks.service.bundles import make_videos, record_questions, to_record, write_random_bundle
from benchmarks.service.deployed import Memory, deployed, watched

BODY_TIMEOUT_S = 3.0
GIVEN_UP_S = 25.0
"""A connection that is still open after so long is a fault: the longest limit is the 10 s that a head may take."""

_PAUSE_S = 0.2
_CHUNK = bytes(1 << 20)

Send = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class BadClient:
    """A way to be a bad client.

    Attributes:
        send: What it sends, as slowly as it likes.
        allowed: How it may end: a status, or `closed`.
        count: How many of them come at once.
    """

    send: Send
    allowed: tuple[str, ...]
    count: int = 20


def _head(length: int | str | None, *more: str) -> bytes:
    lines = ["host: 127.0.0.1", "content-type: application/octet-stream", *more]
    if length is not None:
        lines.append(f"content-length: {length}")
    return ("POST /v1/predict HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()


def _all_at_once(data: bytes) -> Send:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return send


def _byte_by_byte(fast: bytes, slow: bytes) -> Send:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(fast)
        for index in range(len(slow)):
            writer.write(slow[index : index + 1])
            await writer.drain()
            await asyncio.sleep(_PAUSE_S)

    return send


def _then_end(data: bytes) -> Send:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.write_eof()

    return send


def _without_end(head: bytes, chunk: bytes, most_bytes: int) -> Send:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _ in range(most_bytes // len(chunk)):
            writer.write(chunk)
            await writer.drain()

    return send


def bad_clients() -> dict[str, BadClient]:
    """Returns the bad clients by name."""
    record = to_record(make_videos(1, 4)[0])
    size = len(record)
    refused = ("400", "closed")
    chunked = "transfer-encoding: chunked"
    chunk = f"{len(_CHUNK):x}\r\n".encode() + _CHUNK + b"\r\n"
    return {
        "head byte by byte": BadClient(
            _byte_by_byte(b"POST /v1/predict HTTP/1.1\r\n", b"x-slow: " + b"a" * 500), ("408", "closed")
        ),
        "silent": BadClient(_all_at_once(b""), ("408", "closed")),
        "body byte by byte": BadClient(_byte_by_byte(_head(size), record), ("408", "closed")),
        "half a body, then silent": BadClient(_all_at_once(_head(size) + record[: size // 2]), ("408", "closed")),
        "half a body, then gone": BadClient(_then_end(_head(size) + record[: size // 2]), refused),
        "body longer than told": BadClient(_all_at_once(_head(size - 10) + record), ("400", "closed")),
        "length below zero": BadClient(_all_at_once(_head(-5) + record), refused),
        "length no number": BadClient(_all_at_once(_head("ten") + record), refused),
        "two lengths": BadClient(_all_at_once(_head(size, "content-length: 3") + record), refused),
        "length and chunks": BadClient(_all_at_once(_head(size, chunked) + b"0\r\n\r\n"), refused),
        "chunk of no size": BadClient(_all_at_once(_head(None, chunked) + b"zz\r\n" + record), refused),
        "1 GB": BadClient(_without_end(_head(1 << 30), _CHUNK, 1 << 30), ("413", "closed"), 2),
        "chunks without end": BadClient(
            _without_end(_head(None, chunked), chunk, 1 << 33), ("413", "408", "closed"), 2
        ),
        "head without end": BadClient(
            _without_end(b"GET / HTTP/1.1\r\n", b"x-a: " + b"a" * 1000 + b"\r\n", 1 << 27), ("400", "431", "closed"), 2
        ),
    }


async def endure(port: int, client: BadClient) -> tuple[str, float]:
    """Returns how a bad client ended, and after how many seconds; `open` if nothing had happened until GIVEN_UP_S."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.create_task(_send(client.send, writer))
    try:
        async with asyncio.timeout(GIVEN_UP_S):
            end = str((await read_reply(reader)).status)
    except TimeoutError:  # before OSError, of which it is one
        end = "open"
    except (OSError, EOFError):
        end = "closed"
    sending.cancel()
    writer.close()
    return end, time.perf_counter() - started


async def _send(send: Send, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # the server may close at any time
        await send(writer)


async def disturb(port: int, client: BadClient, questions: list[Question], memory: Memory) -> dict[str, Any]:
    """Lets bad clients of one kind come at once beside a good one, and returns what became of both."""
    good, began = Client(port), len(memory.samples)
    beside = [asyncio.create_task(_ask_on(good, questions)), asyncio.create_task(memory.watch(0.2))]
    ends = await asyncio.gather(*(endure(port, client) for _ in range(client.count)))
    await asyncio.sleep(1)  # so that the good client asks at all where the bad ones are refused at once
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    outcomes = Counter(end for end, _ in ends)
    samples = [sample for _, sample in memory.samples[began:]]
    return {
        "ends": dict(outcomes),
        "is_as_expected": set(outcomes) <= set(client.allowed),
        "longest_s": round(max(seconds for _, seconds in ends), 2),
        "good_p50_ms": round(good.tally.quantile_ms(0.5), 1),
        "good_p99_ms": round(good.tally.quantile_ms(0.99), 1),
        "good_answered": len(good.tally.seconds),
        "good_wrong_or_failed": good.tally.wrong + good.tally.failed,
        "most_memory": {title: max(sample[title] for sample in samples) for title in samples[0]},
    }


async def _ask_on(client: Client, questions: list[Question]) -> None:
    with client.timed():
        for question in itertools.cycle(questions):
            await client.ask(question)
            await asyncio.sleep(0.02)


def slow(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Lets one kind of bad client after the other come, and measures a good one alone before and after."""
    bundle = write_random_bundle(folder / "slow", "logistic", seed=1)
    questions = record_questions(make_videos(4, 10), [bundle])
    kinds = {name: client for name, client in bad_clients().items() if options.only in name}
    with deployed({"a": bundle}, proxy=options.proxy, limits={"body_timeout_s": BODY_TIMEOUT_S}) as service:
        memory = watched(service)
        asyncio.run(closed_loop(service.port, questions, connections=4, count=50))
        found: dict[str, Any] = {}
        nobody = BadClient(_all_at_once(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"), ("200",), 1)
        for name, client in {"nobody": nobody, **kinds, "nobody again": nobody}.items():
            found[name] = asyncio.run(disturb(service.port, client, questions, memory))
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    return found
