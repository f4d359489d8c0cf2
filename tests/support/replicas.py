"""Replicas of the service that are a few lines each, and a plan of releases that they report to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from serve.release.plan import Orders, Release, ReleasePlan, Report, Slot


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Replica:
    """Loads what it is told to at its next turn, answers with the release of the turn after; some files are broken.

    Attributes:
        files: The version of each place; another place cannot be loaded.
    """

    name: str
    configured: str = "a"
    files: dict[str, str] = field(default_factory=lambda: {"a": "va", "b": "vb", "b2": "vb", "c": "vc"})
    release: Release = field(default_factory=lambda: Release(-1, Slot("a", "a")))
    loaded: dict[int, str] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def turn(self, plan: ReleasePlan) -> Orders:
        report = Report(self.configured, self.release, dict(self.loaded), dict(self.failures), f"of {self.name}\n")
        orders = plan.report(self.name, report)
        for slot in orders.slots:
            if slot.id in self.loaded:
                continue
            found = self.files.get(slot.uri)
            if found is None or slot.version not in ("", found):
                self.failures[slot.id] = f"no model {slot.version} in {slot.uri}, found {found}"
            else:
                self.loaded[slot.id] = found
        if all(slot.id in self.loaded for slot in orders.release.slots):
            self.release = orders.release
        return orders

    @property
    def version(self) -> str:
        return self.loaded[self.release.current.id]


@dataclass
class Cluster:
    """A plan and its replicas, which report all the time."""

    plan: ReleasePlan
    clock: Clock
    replicas: list[Replica]
    num_turns: int = 0

    async def turns(self) -> None:
        """Waits until each replica has reported a few times."""
        until = self.num_turns + 4
        while self.num_turns < until:
            await asyncio.sleep(0.001)

    async def live(self) -> None:
        while True:
            self.num_turns += 1
            self.clock.seconds += 0.5
            for replica in self.replicas:
                replica.turn(self.plan)
            await asyncio.sleep(0.001)

    @property
    def versions(self) -> list[str]:
        return [replica.version for replica in self.replicas]


def run(test: Callable[[Cluster], Awaitable[None]], *names: str) -> Cluster:
    clock = Clock()

    async def main() -> Cluster:
        cluster = Cluster(ReleasePlan("a", Slot("a", "a"), now=clock), clock, [Replica(name) for name in names])
        living = asyncio.create_task(cluster.live())
        try:
            await cluster.turns()
            await asyncio.wait_for(test(cluster), 20)
        finally:
            living.cancel()
        return cluster

    return asyncio.run(main())
