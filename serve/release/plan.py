"""Which models the replicas answer with, and how that changes without a failed request.

A change has two phases: every live replica loads the new model beside the old one and checks it on its golden videos,
then all switch. If one replica cannot load it, the change is refused for all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.operations.changes import Canary, Change, Promote, RefusedError
from serve.operations.statistics import ModelStatistics

logger = logging.getLogger("ray.serve.yt8m")

REPORT_INTERVAL_S = 0.5
# A change does not wait for a replica that has not reported for longer.
LIVING_S = 5.0
LOADING_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Slot:
    """One request for a model: a second request for the same place loads it again."""

    uri: str
    name: str  # what an operator calls it
    # Random and no counter: a manager that Ray restarts does not know which numbers were used.
    id: int = field(default_factory=lambda: secrets.randbits(48))
    version: str = ""  # that its files must have; empty accepts any


@dataclass(frozen=True)
class Release:
    """What the replicas answer with."""

    number: int  # grows with each change
    current: Slot
    canary: Slot | None = None
    share: float = 0.0  # of the requests, 0 to 1, that the canary answers in place of `current`
    previous: Slot | None = None  # what a rollback goes back to
    followed: str = ""  # what the alias pointed to at the last change that came from it

    @property
    def slots(self) -> list[Slot]:
        """All models that must be loaded."""
        return [self.current] if self.canary is None else [self.current, self.canary]


@dataclass(frozen=True)
class Report:
    """The state of a replica."""

    configured: str  # the model that it was deployed with
    release: Release  # what it answers with now
    versions: Mapping[int, str] = field(default_factory=dict)  # of the loaded models, by slot id
    failures: Mapping[int, str] = field(default_factory=dict)  # why others could not be loaded, by slot id
    metrics: str = ""  # in Prometheus' text form
    statistics: Mapping[str, ModelStatistics] = field(default_factory=dict)  # by model version


@dataclass(frozen=True)
class Orders:
    """What a replica does next: answer with a release, and load a candidate."""

    release: Release
    candidate: Slot | None = None

    @property
    def slots(self) -> list[Slot]:
        """All models that must be loaded."""
        return [*self.release.slots, *([] if self.candidate is None else [self.candidate])]


class BusyError(RefusedError):
    """A change that was refused because another one is under way; it can be retried."""


class ReleasePlan:
    """Decides releases. A new plan takes over the newest release that a replica of its configuration reports.

    `current` is what `configured` resolves to now, such as a version for an alias.
    """

    def __init__(self, configured: str, current: Slot, *, now: Callable[[], float] = time.monotonic) -> None:
        self.configured = configured
        self.release = Release(0, current, followed=current.uri)
        self._is_confirmed = False
        self._candidate: Slot | None = None
        self._last_refusal = ""
        self._reports: dict[str, tuple[float, Report]] = {}
        self._changing = asyncio.Lock()
        self._now = now

    def report(self, replica_id: str, report: Report) -> Orders:
        """Records a replica's state and returns its orders; a replica of another configuration stays as it is."""
        if report.configured != self.configured:
            return Orders(report.release)
        self._reports[replica_id] = (self._now(), report)
        self._reports = {each: entry for each, entry in self._reports.items() if self._is_living(entry[0])}
        number, mine = report.release.number, self.release.number
        # Until a replica answers with it, a plan's own release only guesses what the replicas answer with.
        if number > mine or (number == mine and not self._is_confirmed):
            self.release = report.release
            self._is_confirmed = True
        return Orders(self.release, self._candidate)

    def _is_living(self, seen: float) -> bool:
        return seen >= self._now() - LIVING_S

    @property
    def living(self) -> dict[str, Report]:
        """The last reports of the replicas that are alive."""
        return {replica_id: report for replica_id, (seen, report) in self._reports.items() if self._is_living(seen)}

    async def make(self, change: Change) -> dict[str, object]:
        """Makes a change on all replicas and returns the status after it.

        RefusedError if another change is under way, there is nothing to change, or a replica cannot load the model.
        """
        match change:
            case Promote(model=None):
                await self.finish_canary()
            case Promote(model=str(name), uri=uri):
                await self.promote(Slot(uri, name))
            case Canary(model=None, share=share):
                await self.set_share(share)
            case Canary(model=str(name), uri=uri, share=share):
                await self.set_canary(Slot(uri, name), share)
            case _:
                await self.roll_back()
        return self.status()

    async def promote(self, slot: Slot, *, followed: str | None = None) -> Release:
        """Makes a model the current one; `followed` is what an alias points to now, if that is the reason."""
        noted = {} if followed is None else {"followed": followed}
        return await self._set_current(slot, candidate=slot, **noted)

    async def set_canary(self, slot: Slot, share: float) -> Release:
        return await self._change(slot, lambda _: {"canary": slot, "share": share})

    async def set_share(self, share: float) -> Release:
        """Changes the share of the canary; 0 ends it."""
        canary = self._present_canary()
        return await self._change(None, lambda _: {"canary": canary, "share": share} if share else {})

    async def finish_canary(self) -> Release:
        return await self._set_current(self._present_canary(), candidate=None)

    async def roll_back(self) -> Release:
        """Ends a canary, or goes back to the previous model; refused if its files have changed since."""
        if self.release.canary is not None:
            return await self._change(None, lambda _: {})
        previous = self.release.previous
        if previous is None:
            raise RefusedError("there is no earlier model to go back to")
        slot = Slot(previous.uri, previous.name, version=previous.version)
        return await self._set_current(slot, candidate=slot)

    def _present_canary(self) -> Slot:
        if self.release.canary is None:
            raise RefusedError("there is no canary")
        return self.release.canary

    async def _set_current(self, slot: Slot, *, candidate: Slot | None, **noted: str) -> Release:
        return await self._change(
            candidate, lambda old: {"current": slot, "previous": self._before(old, slot), **noted}
        )

    def _before(self, old: Release, slot: Slot) -> Slot | None:
        """Returns what a rollback goes back to once `slot` answers: a model of another version."""
        # Promoting the same files again must not lose the way back.
        current = self._kept(old.current)
        is_same = current.version != "" and current.version == self._kept(slot).version
        return old.previous if is_same else current

    def _kept(self, slot: Slot) -> Slot:
        """Returns a slot with its loaded version, since its place may hold other files later."""
        versions = [report.versions[slot.id] for report in self.living.values() if slot.id in report.versions]
        return dataclasses.replace(slot, version=versions[0] if versions else "")

    async def _change(self, candidate: Slot | None, fields: Callable[[Release], Mapping[str, Any]]) -> Release:
        if self._changing.locked():
            raise BusyError("another change is under way")
        async with self._changing:
            if candidate is not None:
                self._candidate = candidate
                try:
                    await self._wait_until_loaded(candidate)
                except RefusedError as error:
                    self._last_refusal = str(error)
                    raise
                finally:
                    self._candidate = None
            old = self.release
            ended = dataclasses.replace(old, number=old.number + 1, canary=None, share=0.0)
            self.release = dataclasses.replace(ended, **fields(old))
            self._is_confirmed, self._last_refusal = True, ""
            logger.info("release %d: %s", self.release.number, self.release)
            if not await self._wait(lambda report: report.release.number >= self.release.number):
                logger.error("release %d: not all replicas answer with it yet", self.release.number)
            return self.release

    async def _wait_until_loaded(self, slot: Slot) -> None:
        def is_loaded(report: Report) -> bool:
            if slot.id in report.failures:
                raise RefusedError(f"{slot.name}: {report.failures[slot.id]}")
            return slot.id in report.versions

        if not await self._wait(is_loaded):
            raise RefusedError(f"{slot.name}: not all replicas had loaded it within {LOADING_TIMEOUT_S:.0f} s")
        versions = {report.versions[slot.id] for report in self.living.values() if slot.id in report.versions}
        if len(versions) > 1:
            raise RefusedError(f"{slot.name}: replicas found different files: {', '.join(sorted(versions))}")

    async def _wait(self, is_done: Callable[[Report], bool]) -> bool:
        """Waits until at least one replica is alive and all live ones are done; returns False after the timeout."""
        deadline = self._now() + LOADING_TIMEOUT_S
        while self._now() < deadline:
            living = self.living
            # A list: a failure anywhere raises, also after a replica that is not done yet.
            if living and all([is_done(report) for report in living.values()]):  # noqa: C419
                return True
            await asyncio.sleep(REPORT_INTERVAL_S / 5)
        return False

    def status(self) -> dict[str, object]:
        return {
            "configured": self.configured,
            "release": dataclasses.asdict(self.release),
            "candidate": None if self._candidate is None else dataclasses.asdict(self._candidate),
            "last_refusal": self._last_refusal,
            "replicas": {
                replica_id: {"release": report.release.number, "versions": dict(report.versions)}
                for replica_id, report in sorted(self.living.items())
            },
        }

    def other_reports(self, replica_id: str) -> list[Report]:
        return [report for other, report in sorted(self.living.items()) if other != replica_id]
