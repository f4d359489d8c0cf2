"""A load generator for HTTP/1.1 that costs far less than what it measures: a library of serving.py.

Requests are bytes that were made before, connections are kept, answers are read by length and compared with what is
known. A closed loop asks again as soon as it is answered; an open loop asks at random moments of a given rate however
slow the answers are, and counts their seconds from the moment at which they were due.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RETRIED = ("502", "503", "504", "lost", "timeout")
"""What a client may ask again after: statuses, a connection that was closed without an answer, no answer in time."""

_ANSWER_BYTES = 1 << 26  # of a line or head: asyncio's own limit is 64 kB


@dataclass(frozen=True)
class Reply:
    """An answer: its status, its head in lower case, its body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Returns the value of a header, None where there is none."""
        _, found, rest = self.head.partition(f"\r\n{name}:".encode())
        return rest.partition(b"\r\n")[0].strip().decode("latin-1") if found else None


@dataclass(frozen=True)
class Question:
    """A request as it goes over the wire, and whether a body with status 200 answers it rightly."""

    data: bytes
    is_right: Callable[[bytes], bool] = lambda _: True


@dataclass(frozen=True)
class Retry:
    """What a client does after one of `after`: waits as told by Retry-After, or ever longer, and asks again."""

    attempts: int = 1
    backoff_s: float = 0.1
    longest_s: float = 5.0
    after: tuple[str, ...] = RETRIED

    def wait_s(self, attempt: int, told: str | None) -> float:
        """Returns how long to wait before the next attempt; the first one is number 1."""
        if told is not None and told.isdigit():
            return min(float(told), self.longest_s)
        backoff_s: float = self.backoff_s * 2 ** (attempt - 1)
        return min(backoff_s, self.longest_s) * random.uniform(0.5, 1.5)


@dataclass
class Tally:
    """What became of many questions.

    Attributes:
        statuses: Of all attempts: the status, `lost` or `timeout`.
        seconds: Of each question that was answered with 200, retries included.
        moments: When each attempt ended, since the start, and its status.
        wrong: Answers with status 200 that were not right.
        failed: Questions that were not answered with 200 in the end.
        with_retry_after: Attempts with status 503 and that header.
        samples: The first body of each status that is not 200.
        wall_s, cpu_s: How long it took, and how much of it this process computed.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    moments: list[tuple[float, str]] = field(default_factory=list)
    wrong: int = 0
    failed: int = 0
    with_retry_after: int = 0
    samples: dict[str, str] = field(default_factory=dict)
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Answers with status 200 a second."""
        return len(self.seconds) / self.wall_s if self.wall_s else 0.0

    def quantile_ms(self, share: float) -> float:
        """Returns the milliseconds that such a share of the answered questions took at most."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else float("nan")

    def figures(self) -> dict[str, Any]:
        """Returns what a report shows."""
        shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "longest_ms": 1.0}
        return {
            "answered": len(self.seconds),
            "per_s": round(self.per_s, 2),
            **{name: round(self.quantile_ms(share), 2) for name, share in shares.items()},
            "statuses": dict(sorted(self.statuses.items())),
            "wrong": self.wrong,
            "failed": self.failed,
            "with_retry_after": self.with_retry_after,
            "samples": self.samples,
            "generator_cpu": round(self.cpu_s / self.wall_s, 3) if self.wall_s else 0.0,
        }


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Returns a request as bytes."""
    lines = {"host": "127.0.0.1", "content-length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


class Connection:
    """A connection that is opened when it is needed and kept for the next request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, data: bytes) -> Reply:
        """Sends a request and returns its answer.

        Raises:
            OSError, EOFError: the connection was closed before there was one.
        """
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_ANSWER_BYTES)
        reader, writer = self._streams
        try:
            writer.write(data)  # not drained: a server may refuse a body that it has not read
            reply = await read_reply(reader)
        except BaseException:
            self.close()
            raise
        if reply.header("connection") == "close":
            self.close()
        return reply

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Returns the next answer on a connection; see `Connection.ask` for errors."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    reply = Reply(int(head[9:12]), head, b"")
    if reply.header("transfer-encoding") == "chunked":
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readuntil(b"\r\n")
        return Reply(reply.status, head, b"".join(parts))
    length = reply.header("content-length")
    if length is None and reply.header("connection") == "close":
        return Reply(reply.status, head, await reader.read())
    return Reply(reply.status, head, await reader.readexactly(int(length or 0)))


class Client:
    """Asks questions with retries and writes down what becomes of them."""

    def __init__(self, port: int, *, retry: Retry = Retry(), timeout_s: float = 60) -> None:
        self.tally = Tally()
        self._port = port
        self._retry = retry
        self._timeout_s = timeout_s
        self._idle: deque[Connection] = deque()
        self._started = time.perf_counter()

    async def ask(self, question: Question, *, due: float | None = None) -> None:
        """Asks until there is an answer, or as often as `retry` allows; its time counts from `due`."""
        started = time.perf_counter() if due is None else due
        for attempt in itertools.count(1):
            reply = await self._attempt(question)
            status = reply if isinstance(reply, str) else str(reply.status)
            self.tally.statuses[status] += 1
            self.tally.moments.append((time.perf_counter() - self._started, status))
            if isinstance(reply, Reply) and reply.status == 200:
                self.tally.seconds.append(time.perf_counter() - started)
                self.tally.wrong += not question.is_right(reply.body)
                return
            told = None
            if isinstance(reply, Reply):
                told = reply.header("retry-after")
                self.tally.samples.setdefault(status, reply.body[:300].decode("utf-8", "replace"))
            self.tally.with_retry_after += status == "503" and told is not None
            if status not in self._retry.after or attempt >= self._retry.attempts:
                self.tally.failed += 1
                return
            await asyncio.sleep(self._retry.wait_s(attempt, told))

    async def _attempt(self, question: Question) -> Reply | str:
        connection = self._idle.pop() if self._idle else Connection(self._port)
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await connection.ask(question.data)
        except TimeoutError:
            return "timeout"
        except (OSError, EOFError):
            return "lost"
        self._idle.append(connection)
        return reply

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Measures the time of its block and closes all connections at its end."""
        self._started, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.tally.wall_s = time.perf_counter() - self._started
            self.tally.cpu_s = time.process_time() - cpu
            while self._idle:
                self._idle.pop().close()


async def closed_loop(
    port: int,
    questions: Sequence[Question],
    *,
    connections: int,
    seconds: float = float("inf"),
    count: int | None = None,
    retry: Retry = Retry(),
) -> Tally:
    """Asks over and over on several connections, for some seconds or so many questions, and returns what became."""
    client = Client(port, retry=retry)
    endless: Iterable[Question] = itertools.cycle(questions)
    remaining = iter(endless if count is None else itertools.islice(endless, count))

    async def ask_on() -> None:
        while time.perf_counter() < end and (question := next(remaining, None)) is not None:
            await client.ask(question)

    with client.timed():
        end = time.perf_counter() + seconds
        await asyncio.gather(*(ask_on() for _ in range(connections)))
    return client.tally


async def open_loop(
    port: int,
    questions: Sequence[Question],
    *,
    per_s: float,
    seconds: float = float("inf"),
    count: int | None = None,
    retry: Retry = Retry(),
    most_under_way: int = 2000,
) -> Tally:
    """Asks at random moments, so many a second, and returns what became of it when all are answered.

    Beyond `most_under_way` a question is not sent, which is counted: what is measured there would be this process.
    """
    client, under_way = Client(port, retry=retry), set[asyncio.Task[None]]()
    with client.timed():
        due = time.perf_counter()
        end = due + seconds
        for question in itertools.islice(itertools.cycle(questions), count):
            due += random.expovariate(per_s)
            if due >= end:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(under_way) >= most_under_way:
                client.tally.statuses["unsent"] += 1
                client.tally.failed += 1
                continue
            task = asyncio.create_task(client.ask(question, due=due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return client.tally
