"""Following an alias, with a store that is a variable and one replica of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serve.release import plan as releases
from serve.release.mlflow_alias import follow_alias
from serve.release.plan import Release, ReleasePlan, Report, Slot

ALIAS = "models:/videos@champion"


class Store:
    """Where the alias points, or what is wrong with MLflow; a place with `bad` in it cannot be loaded."""

    def __init__(self) -> None:
        self.target: str | Exception = "v1"
        self.plan = ReleasePlan(ALIAS, Slot("v1", ALIAS))
        self.replica = Release(-1, Slot(ALIAS, ALIAS))
        self.asked = 0

    def resolve(self, uri: str) -> str:
        assert uri == ALIAS
        self.asked += 1
        if isinstance(self.target, Exception):
            raise self.target
        return self.target

    async def live(self) -> None:
        loaded: dict[int, str] = {}
        failures: dict[int, str] = {}
        while True:
            orders = self.plan.report("r", Report(ALIAS, self.replica, dict(loaded), dict(failures)))
            for slot in orders.slots:
                (failures if "bad" in slot.uri else loaded)[slot.id] = slot.uri
            self.replica = orders.release
            await asyncio.sleep(0.001)

    async def turns(self) -> None:
        """Waits until the alias was looked at some more times: what came of the first look is done by the second."""
        until = self.asked + 3
        while self.asked < until:
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "REPORT_INTERVAL_S", 0.005)


def run(test: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        store = Store()
        living = asyncio.create_task(store.live())
        while store.replica.number < 0:
            await asyncio.sleep(0.001)
        following = asyncio.create_task(follow_alias(store.plan, store.resolve, 0.01))
        try:
            await asyncio.wait_for(test(store), 20)
            assert not following.done()
        finally:
            living.cancel()
            following.cancel()

    asyncio.run(main())


def test_a_model_is_promoted_when_the_alias_moves_and_not_before() -> None:
    async def test(store: Store) -> None:
        await store.turns()
        assert store.replica.number == 0
        store.target = "v2"
        await store.turns()
        assert (store.replica.number, store.replica.current.uri, store.replica.followed) == (1, "v2", "v2")
        await store.turns()
        assert store.replica.number == 1

    run(test)


def test_what_is_refused_is_not_tried_again_until_the_alias_moves(caplog: pytest.LogCaptureFixture) -> None:
    async def test(store: Store) -> None:
        store.target = "bad"
        await store.turns()
        await store.turns()
        assert store.replica.current.uri == "v1"
        store.target = "v3"
        await store.turns()
        assert store.replica.current.uri == "v3"

    run(test)
    assert caplog.text.count("refused, the models stay as they are") == 1


def test_an_alias_that_moves_during_another_change_is_followed_after_it() -> None:
    async def test(store: Store) -> None:
        async with store.plan._changing:
            store.target = "v2"
            await store.turns()
            assert store.replica.current.uri == "v1"
        await store.turns()
        assert store.replica.current.uri == "v2"

    run(test)


@pytest.mark.parametrize("error", [ValueError("no such alias"), ConnectionError("no answer")])
def test_an_mlflow_that_does_not_answer_changes_nothing_and_is_told_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(store: Store) -> None:
        store.target = error
        await store.turns()
        assert store.replica.number == 0
        store.target = "v2"
        await store.turns()
        assert store.replica.current.uri == "v2"

    run(test)
    assert caplog.text.count("the models stay as they are") == 1


def test_what_an_operator_promotes_stays_though_the_manager_is_made_anew() -> None:
    async def test(store: Store) -> None:
        await store.plan.promote(Slot("mine", "mine"))
        store.plan = ReleasePlan(ALIAS, Slot("v1", ALIAS))
        while store.plan.release.current.uri != "mine":
            await asyncio.sleep(0.005)
        again = asyncio.create_task(follow_alias(store.plan, store.resolve, 0.01))
        await store.turns()
        assert store.replica.current.uri == "mine"
        store.target = "v2"  # and a move while nobody looked is found
        await store.turns()
        assert store.replica.current.uri == "v2"
        again.cancel()

    run(test)
