"""The load generator counts what a server does, here one that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.load import Question, Retry, Tally, closed_loop, open_loop, request

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
FULL = b"HTTP/1.1 503 Full\r\nRetry-After: 0\r\ncontent-length: 4\r\n\r\nfull"
BROKEN = b"HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\noh!"  # as long as it lasts
CLOSES = b""

ASK = Question(request("POST", "/", b"body"), lambda body: body == b"ok")


def run_against(answers: list[bytes], ask: Callable[[int], Awaitable[Tally]]) -> Tally:
    """Returns what a loop finds at a server that gives these answers in turn and closes on an empty one."""
    remaining = iter(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            await reader.readuntil(b"body")
            data = next(remaining)
            writer.write(data)
            if data in (CLOSES, BROKEN):
                break
        writer.close()

    async def serve_and_ask() -> Tally:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            return await ask(server.sockets[0].getsockname()[1])

    return asyncio.run(serve_and_ask())


@pytest.mark.parametrize("answers", [[OK] * 3, [CHUNKED, OK, CHUNKED]])
def test_right_answers_are_counted_however_they_are_sent(answers: list[bytes]) -> None:
    tally = run_against(answers, lambda port: closed_loop(port, [ASK], connections=1, count=3))
    assert (tally.statuses, tally.wrong, tally.failed, len(tally.seconds)) == ({"200": 3}, 0, 0, 3)


def test_another_answer_is_wrong() -> None:
    tally = run_against([OK.replace(b"ok", b"no")], lambda port: closed_loop(port, [ASK], connections=1, count=1))
    assert (tally.wrong, tally.failed) == (1, 0)


def test_a_patient_client_fails_only_where_asking_again_does_not_help() -> None:
    answers, retry = [FULL, CLOSES, OK, BROKEN, OK], Retry(attempts=5, backoff_s=0.001)
    tally = run_against(answers, lambda port: closed_loop(port, [ASK], connections=1, count=3, retry=retry))
    assert tally.statuses == {"503": 1, "lost": 1, "200": 2, "500": 1}
    assert (tally.failed, tally.with_retry_after, tally.samples) == (1, 1, {"503": "full", "500": "oh!"})


def test_an_open_loop_counts_time_from_when_a_question_was_due() -> None:
    tally = run_against([OK] * 50, lambda port: open_loop(port, [ASK], per_s=500, count=50))
    assert len(tally.seconds) == 50
    assert 0 < tally.quantile_ms(0.5) <= tally.quantile_ms(0.99) <= tally.quantile_ms(1.0)


def test_what_the_generator_cannot_carry_is_not_sent_and_says_so() -> None:
    loop = lambda port: open_loop(port, [ASK], per_s=1e6, count=20, most_under_way=5)  # noqa: E731
    tally = run_against([OK] * 20, loop)
    assert tally.statuses["200"] + tally.statuses["unsent"] == 20
    assert tally.failed == tally.statuses["unsent"] > 0
