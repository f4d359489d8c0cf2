"""The queue and its thread, with models that say when they are done."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from serve.errors import OverloadedError, RequestError
from serve.model.batching import Answer, Batcher, Pace
from serve.settings import Limits
from yt8m_ray.data.format.features import VideoRow


class GatedModel:
    """Answers each row with the number in its id, once the gate is open; keeps the ids of each batch."""

    version = "v"

    def __init__(self, *, is_open: bool = True, seconds: float = 0.0) -> None:
        self.gate = threading.Event()
        self.has_begun = threading.Event()
        self.batches: list[list[str]] = []
        self.seconds = seconds
        if is_open:
            self.gate.set()

    def best_classes(self, rows: Sequence[VideoRow], top_k: int) -> list[tuple[list[int], list[float]]]:
        self.batches.append([row.video_id for row in rows])
        self.has_begun.set()
        assert self.gate.wait(10)
        time.sleep(self.seconds)
        return [([int(row.video_id)] * top_k, [0.5] * top_k) for row in rows]


def row(number: int) -> VideoRow:
    return VideoRow(str(number), np.zeros((1, 2), np.uint8), np.empty(0, np.int32))


def rows(*numbers: int) -> list[VideoRow]:
    return [row(number) for number in numbers]


def run(test: Callable[[Batcher], Awaitable[None]], **limits: float) -> list[int]:
    """Runs a test with a batcher and returns the sizes of the batches."""
    sizes: list[int] = []

    async def main() -> None:
        batcher = Batcher(lambda: Limits.model_validate(limits), lambda _, size, __: sizes.append(size))
        try:
            await asyncio.wait_for(test(batcher), 20)
        finally:
            batcher.close()

    asyncio.run(main())
    return sizes


async def begin(model: GatedModel) -> None:
    assert await asyncio.to_thread(model.has_begun.wait, 10)


def test_a_lone_video_is_computed_at_once() -> None:
    async def test(batcher: Batcher) -> None:
        (answer,) = await asyncio.gather(*batcher.ask(GatedModel(), rows(7), 2))
        assert (answer.class_ids, answer.scores) == ([7, 7], [0.5, 0.5])
        assert answer.queue_s < 0.5  # nothing waits for company; the machine may be busy

    assert run(test) == [1]


def test_what_comes_while_the_model_is_busy_is_the_next_batch() -> None:
    model = GatedModel(is_open=False)

    async def test(batcher: Batcher) -> None:
        futures = batcher.ask(model, rows(0), 1)
        await begin(model)
        for number in (1, 2, 3):
            futures += batcher.ask(model, rows(number), 1)
        assert batcher.num_queued == 3
        model.gate.set()
        assert [answer.class_ids for answer in await asyncio.gather(*futures)] == [[0], [1], [2], [3]]

    assert run(test) == [1, 3]
    assert model.batches == [["0"], ["1", "2", "3"]]


class PickyModel(GatedModel):
    """Refuses the video 1."""

    def best_classes(self, rows: Sequence[VideoRow], top_k: int) -> list[Any]:
        best = super().best_classes(rows, top_k)
        return [RequestError(422, "no") if row.video_id == "1" else each for row, each in zip(rows, best, strict=True)]


def test_a_video_that_the_model_refuses_costs_no_other_of_its_batch() -> None:
    model = PickyModel(is_open=False)

    async def test(batcher: Batcher) -> None:
        first = batcher.ask(model, rows(0), 1)
        await begin(model)
        futures = batcher.ask(model, rows(1, 2), 1)
        model.gate.set()
        refusal, answer = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(refusal, RequestError) and refusal.status == 422
        assert isinstance(answer, Answer) and answer.class_ids == [2]
        await asyncio.gather(*first)

    assert run(test) == [1, 2]


def test_signals_do_not_pile_up_while_the_model_never_rests() -> None:
    async def test(batcher: Batcher) -> None:
        model = GatedModel(is_open=False)
        futures = batcher.ask(model, rows(0), 1)
        await begin(model)
        futures += [future for number in range(1, 100) for future in batcher.ask(model, rows(number), 1)]
        assert batcher._signals.qsize() <= 1
        model.gate.set()
        assert [answer.class_ids for answer in await asyncio.gather(*futures)] == [[number] for number in range(100)]

    assert sum(run(test, max_queued_videos=100)) == 100


def test_each_of_a_batch_gets_as_many_classes_as_it_asked_for() -> None:
    model = GatedModel(is_open=False)

    async def test(batcher: Batcher) -> None:
        futures = batcher.ask(model, rows(0), 1)
        await begin(model)
        futures += [*batcher.ask(model, rows(1), 5), *batcher.ask(model, rows(2), 2)]
        model.gate.set()
        assert [len(answer.class_ids) for answer in await asyncio.gather(*futures)] == [1, 5, 2]

    run(test)


def test_a_batch_is_no_larger_than_the_limit() -> None:
    async def test(batcher: Batcher) -> None:
        await asyncio.gather(*batcher.ask(GatedModel(), rows(*range(10)), 1))

    assert run(test, max_batch_size=4) == [4, 4, 2]


def test_batches_become_as_small_as_the_target_latency_asks_for() -> None:
    model = GatedModel(seconds=0.05)  # a batch

    async def test(batcher: Batcher) -> None:
        for _ in range(5):
            await asyncio.gather(*batcher.ask(model, rows(0), 1))
        await asyncio.gather(*batcher.ask(model, rows(1, 2, 3), 1))

    assert run(test, max_batch_size=32, target_latency_s=0.04) == [1] * 8


def learned(*batches: tuple[int, float], limits: Limits | None = None) -> Pace:
    pace = Pace()
    for size, seconds in batches:
        pace.learn(size, seconds, limits or Limits())
    return pace


def test_a_lone_video_says_nothing_about_what_a_batch_takes() -> None:
    assert learned(*[(1, 0.03)] * 20).largest_batch(Limits(max_batch_size=32, target_latency_s=0.25)) == 32


@pytest.mark.parametrize("fixed_s", [0.0, 0.02, 0.1])
def test_batches_find_the_size_that_takes_as_long_as_they_may(fixed_s: float) -> None:
    limits, pace = Limits(max_batch_size=64, target_latency_s=0.22), Pace()
    for _ in range(40):
        size = pace.largest_batch(limits)
        pace.learn(size, fixed_s + 0.01 * size, limits)

    fitting = round((0.22 - fixed_s) / 0.01)
    assert fitting - 2 <= pace.largest_batch(limits) <= fitting + 1
    assert pace.seconds(100, limits) == pytest.approx(0.22 * 100 / fitting, rel=0.25)


def test_one_that_was_held_up_does_not_make_all_others_small() -> None:
    pace = learned((1, 0.03), (1, 9.0), limits=Limits(max_batch_size=32))

    assert pace.largest_batch(Limits(max_batch_size=32)) == 16


def test_batches_grow_again_when_what_held_them_up_is_over() -> None:
    limits = Limits(max_batch_size=16)
    pace = learned(*[(1, 9.0)] * 10, limits=limits)
    assert pace.largest_batch(limits) == 1
    for _ in range(15):
        pace.learn(pace.largest_batch(limits), 0.01, limits)

    assert pace.largest_batch(limits) == 16


def test_batches_that_are_not_full_say_nothing_of_larger_ones() -> None:
    limits = Limits(max_batch_size=16)
    pace = learned(*[(1, 9.0)] * 2, *[(2, 0.01)] * 50, limits=limits)

    assert pace.largest_batch(limits) == 4


def test_a_limit_that_an_operator_lowers_or_lifts_counts_at_once() -> None:
    pace = learned((8, 0.1), limits=Limits(max_batch_size=8))

    assert [pace.largest_batch(Limits(max_batch_size=size)) for size in (4, 8)] == [4, 8]
    assert learned((8, 0.1)).largest_batch(Limits(max_batch_size=64)) == 64


def test_what_nothing_is_known_of_takes_no_time() -> None:
    assert Pace().seconds(100, Limits()) == 0


def test_two_models_are_never_in_one_batch_and_each_keeps_its_order() -> None:
    first, second = GatedModel(is_open=False), GatedModel()

    async def test(batcher: Batcher) -> None:
        futures = batcher.ask(first, rows(0), 1)
        await begin(first)
        for number, model in ((1, second), (2, first), (3, second), (4, first)):
            futures += batcher.ask(model, rows(number), 1)
        first.gate.set()
        assert [answer.class_ids for answer in await asyncio.gather(*futures)] == [[0], [1], [2], [3], [4]]

    run(test)
    assert (first.batches, second.batches) == ([["0"], ["2", "4"]], [["1", "3"]])


def test_what_is_cancelled_is_not_computed() -> None:
    model = GatedModel(is_open=False)

    async def test(batcher: Batcher) -> None:
        (first,) = batcher.ask(model, rows(0), 1)
        await begin(model)
        futures = batcher.ask(model, rows(1, 2, 3, 4), 1)
        for each in (first, futures[0], futures[2]):  # one of them is being computed already
            each.cancel()
        model.gate.set()
        assert [answer.class_ids for answer in await asyncio.gather(futures[1], futures[3])] == [[2], [4]]

    run(test)
    assert model.batches == [["0"], ["2", "4"]]


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    model = GatedModel(is_open=False)

    async def test(batcher: Batcher) -> None:
        futures = batcher.ask(model, rows(0), 1)
        await begin(model)
        futures += batcher.ask(model, rows(1, 2), 1)
        with pytest.raises(OverloadedError, match=r"2 videos wait already, some .* s; retry in 1 s") as refusal:
            batcher.ask(model, rows(3, 4), 1)
        assert (refusal.value.status, refusal.value.headers) == (503, {"retry-after": "1"})
        futures += batcher.ask(model, rows(5), 1)
        model.gate.set()
        await asyncio.gather(*futures)

    run(test, max_queued_videos=3)
    assert model.batches == [["0"], ["1", "2", "5"]]


async def begin_and_hold(batcher: Batcher, model: GatedModel) -> list[asyncio.Future[Answer]]:
    """Asks for a video, which the model takes and does not answer before its gate opens."""
    model.gate.clear()
    model.has_begun.clear()
    futures = batcher.ask(model, rows(1), 1)
    await begin(model)
    return futures


def test_a_queue_that_would_take_too_long_is_full_too() -> None:
    model = GatedModel(seconds=0.2)

    async def test(batcher: Batcher) -> None:
        await asyncio.gather(*batcher.ask(model, rows(0), 1))
        futures = await begin_and_hold(batcher, model)
        futures += batcher.ask(model, rows(*range(3)), 1)  # 0.2 s each: more than 0.5 s
        with pytest.raises(OverloadedError):
            batcher.check_room()
        model.gate.set()
        await asyncio.gather(*futures)

    run(test, max_queue_s=0.5, max_batch_size=1)


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    async def test(batcher: Batcher) -> None:
        assert len(await asyncio.gather(*batcher.ask(GatedModel(), rows(*range(9)), 1))) == 9

    run(test, max_queued_videos=3)


def test_the_time_to_come_again_grows_with_the_queue_and_the_model() -> None:
    model = GatedModel(seconds=0.3)

    async def test(batcher: Batcher) -> None:
        await asyncio.gather(*batcher.ask(model, rows(0), 1))
        futures = await begin_and_hold(batcher, model)
        futures += batcher.ask(model, rows(*range(10)), 1)
        with pytest.raises(OverloadedError) as refusal:
            batcher.check_room()
        assert int(refusal.value.headers["retry-after"]) >= 3  # 10 videos of 0.3 s
        model.seconds = 0
        model.gate.set()
        await asyncio.gather(*futures)

    run(test, max_queued_videos=10, max_batch_size=1)


class BrokenModel:
    version = "v"

    def __init__(self, answers: int | None) -> None:
        self.answers = answers

    def best_classes(self, rows: Sequence[VideoRow], top_k: int) -> list[tuple[list[int], list[float]]]:
        if self.answers is None:
            raise KeyError("broken")
        return [([0], [0.0])] * self.answers


@pytest.mark.parametrize(("answers", "error"), [(None, KeyError), (1, RuntimeError), (3, RuntimeError)])
def test_a_model_that_fails_fails_its_batch_alone(answers: int | None, error: type[Exception]) -> None:
    async def test(batcher: Batcher) -> None:
        broken = batcher.ask(BrokenModel(answers), rows(1, 2), 1)
        sound = batcher.ask(GatedModel(), rows(3), 1)
        results = await asyncio.gather(*broken, *sound, return_exceptions=True)
        assert [type(result) for result in results] == [error, error, Answer]

    assert run(test) == [1]


def test_closing_answers_what_is_queued_and_then_takes_nothing_more() -> None:
    model = GatedModel()

    async def test(batcher: Batcher) -> None:
        futures = batcher.ask(model, rows(1, 2), 1)
        batcher.close()
        assert [answer.class_ids for answer in await asyncio.gather(*futures)] == [[1], [2]]
        assert not batcher.is_alive
        with pytest.raises(RuntimeError, match="has ended"):
            batcher.ask(model, rows(3), 1)

    run(test)


def test_an_answer_that_comes_after_the_end_of_the_event_loop_harms_nobody() -> None:
    model = GatedModel(is_open=False)
    batchers: list[Batcher] = []

    async def main() -> None:
        batchers.append(Batcher(Limits, lambda *_: None))
        batchers[0].ask(model, rows(0), 1)
        await begin(model)

    asyncio.run(main())
    model.gate.set()
    batchers[0].close()
    assert model.batches == [["0"]]


def test_a_model_that_was_dropped_leaves_the_memory() -> None:
    async def test(batcher: Batcher) -> None:
        model = GatedModel()
        await asyncio.gather(*batcher.ask(model, rows(1), 1))
        gone = weakref.ref(model)
        del model
        deadline = time.monotonic() + 5
        while gone() is not None and time.monotonic() < deadline:  # the thread is about to wait again
            await asyncio.sleep(0.01)
            gc.collect()
        assert gone() is None

    run(test)


def test_videos_of_many_event_loop_turns_all_get_their_own_answer() -> None:
    model = GatedModel()

    async def test(batcher: Batcher) -> None:
        async def ask(number: int) -> None:
            await asyncio.sleep(number % 7 / 1000)
            (answer,) = await asyncio.gather(*batcher.ask(model, rows(number), 1))
            assert answer.class_ids == [number]

        await asyncio.gather(*map(ask, range(200)))

    assert sum(run(test)) == 200
