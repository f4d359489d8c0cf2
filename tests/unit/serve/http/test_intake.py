"""How many bytes of bodies are held at a time, and what becomes of a body that is decoded too late."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from serve.errors import OverloadedError, RequestError
from serve.http.intake import Intake
from serve.settings import Limits


def run(test: Callable[[Intake], Awaitable[None]], *, most: int = 100) -> None:
    async def main() -> None:
        intake = Intake(lambda: Limits(max_pending_bytes=most))
        await asyncio.wait_for(test(intake), 20)

    asyncio.run(main())


def soon() -> float:
    return asyncio.get_running_loop().time() + 10


def test_beyond_the_limit_a_body_is_refused_until_others_are_through() -> None:
    async def test(intake: Intake) -> None:
        with intake.hold() as first:
            first.add(60)
            with pytest.raises(OverloadedError, match="bodies of 60 bytes") as caught, intake.hold() as second:
                second.add(41)
            assert caught.value.headers == {"retry-after": "1", "connection": "close"}
            assert intake.num_bytes == 60
            with intake.hold() as third:
                third.add(40)
            assert intake.num_bytes == 60
        assert intake.num_bytes == 0

    run(test)


def test_a_body_that_is_alone_is_taken_however_large_it_is() -> None:
    async def test(intake: Intake) -> None:
        with intake.hold() as hold:
            hold.add(1000)

    run(test)


def test_bodies_of_many_megabytes_leave_room_for_small_ones() -> None:
    async def test(intake: Intake) -> None:
        with contextlib.ExitStack() as stack:
            large, other, *small = (stack.enter_context(intake.hold()) for _ in range(4))
            large.add(2**20)
            for _ in range(59):
                large.add(2**20)
            other.add(2**20)
            with pytest.raises(OverloadedError, match=f"at most {60 * 2**20} are"):
                other.add(1)
            for each in small:
                each.add(2**20)
            assert intake.num_bytes == 63 * 2**20

    run(test, most=80 * 2**20)


def test_what_was_decoded_or_refused_is_held_no_longer() -> None:
    async def test(intake: Intake) -> None:
        def refuse() -> str:
            raise RequestError(400, "no record")

        with intake.hold() as hold:
            hold.add(50)
            assert await hold.decode(lambda: threading.current_thread().name, soon()) == "decoder_0"
        with pytest.raises(RequestError, match="no record"), intake.hold() as hold:
            hold.add(50)
            await hold.decode(refuse, soon())
        assert intake.num_bytes == 0

    run(test)


def test_a_refusal_comes_late_by_what_it_cost_and_holds_nothing_meanwhile() -> None:
    async def test(intake: Intake) -> None:
        def refuse() -> None:
            time.sleep(0.02)
            raise RequestError(400, "no record")

        async def ask() -> float:
            with pytest.raises(RequestError, match="no record"), intake.hold() as hold:
                hold.add(50)
                await hold.decode(refuse, soon())
            return asyncio.get_running_loop().time()

        started = asyncio.get_running_loop().time()
        asked = asyncio.create_task(ask())
        while not intake.num_bytes:
            await asyncio.sleep(0)
        while intake.num_bytes:
            await asyncio.sleep(0.001)
        assert not asked.done()
        assert await asked - started >= 0.6

    run(test)


def test_what_was_tried_in_the_event_loop_is_a_part_of_the_cost() -> None:
    async def test(intake: Intake) -> None:
        def refuse() -> None:
            raise RequestError(400, "no record")

        def refuse_slowly() -> None:
            time.sleep(0.02)
            refuse()

        loop = asyncio.get_running_loop()
        for at_once in (lambda: time.sleep(0.02), refuse_slowly):
            started = loop.time()
            with pytest.raises(RequestError, match="no record"), intake.hold() as hold:
                await hold.decode(refuse, soon(), at_once=at_once)
            assert loop.time() - started >= 0.6

    run(test)


def test_a_refusal_does_not_wait_beyond_the_deadline() -> None:
    async def test(intake: Intake) -> None:
        def refuse() -> None:
            time.sleep(0.1)
            raise RequestError(400, "no record")

        loop = asyncio.get_running_loop()
        with pytest.raises(RequestError), intake.hold() as hold:
            await hold.decode(refuse, loop.time() + 0.3)
        async with asyncio.timeout(1):  # and not the 2 s that it cost
            with pytest.raises(RequestError), intake.hold() as hold:
                await hold.decode(refuse, loop.time() + 0.3)

    run(test)


def test_a_body_is_held_as_long_as_it_is_decoded_though_nobody_waits_any_more() -> None:
    async def test(intake: Intake) -> None:
        go_on, called = threading.Event(), []
        with pytest.raises(RequestError) as caught, intake.hold() as hold:
            hold.add(50)
            await hold.decode(go_on.wait, asyncio.get_running_loop().time() + 0.01)
        assert (caught.value.status, intake.num_bytes) == (504, 50)
        with pytest.raises(RequestError), intake.hold() as late:
            late.add(20)
            await late.decode(lambda: called.append(1), asyncio.get_running_loop().time() + 0.01)
        assert intake.num_bytes == 50  # the second never began
        go_on.set()
        while intake.num_bytes:
            await asyncio.sleep(0.001)
        assert called == []

    run(test)
