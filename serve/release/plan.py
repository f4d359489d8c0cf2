"""Which models the replicas answer with, and how that changes without a failed request.

A change has two phases. First every living replica loads the new model beside the old one and lets it answer its golden
videos; then all switch. One that cannot refuses the change for all, and nothing has happened.
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

from serve.operations.statistics import ModelStatistics

logger = logging.getLogger("ray.serve.yt8m")

REPORT_INTERVAL_S = 0.5
"""How often a replica reports and is told what to do."""

LIVING_S = 5.0
"""A replica that has not reported for so long is not waited for."""

LOADING_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Slot:
    """A model that was asked for once: asked for again, the same place is loaded anew.

    Attributes:
        uri: Its place.
        name: What an operator calls it.
        id: Tells the requests for one place apart, whoever made them: a manager that is made anew counts on nothing.
        version: Of the files that have to be there; empty takes what is found.
    """

    uri: str
    name: str
    id: int = field(default_factory=lambda: secrets.randbits(48))
    version: str = ""


@dataclass(frozen=True)
class Release:
    """What the replicas answer with.

    Attributes:
        number: Grows with each change.
        current: Answers.
        canary: Answers `share` of the requests instead, where there is one.
        share: 0 to 1.
        previous: What a rollback goes back to.
        followed: What the alias stood for, of the last change that came from one.
    """

    number: int
    current: Slot
    canary: Slot | None = None
    share: float = 0.0
    previous: Slot | None = None
    followed: str = ""

    @property
    def slots(self) -> list[Slot]:
        """All that have to be loaded."""
        return [self.current] if self.canary is None else [self.current, self.canary]


@dataclass(frozen=True)
class Report:
    """What a replica says.

    Attributes:
        configured: The model that it was deployed with.
        release: What it answers with now.
        versions: Of the models that it has loaded, by the id of their slot.
        failures: Why others could not be loaded, by the id of theirs.
        metrics: Its numbers in Prometheus' text form.
        statistics: What its models have done, by their versions.
    """

    configured: str
    release: Release
    versions: Mapping[int, str] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)
    metrics: str = ""
    statistics: Mapping[str, ModelStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class Orders:
    """What a replica is told: the release to answer with, and a model to have ready."""

    release: Release
    candidate: Slot | None = None

    @property
    def slots(self) -> list[Slot]:
        """All that have to be loaded."""
        return [*self.release.slots, *([] if self.candidate is None else [self.candidate])]


class RefusedError(Exception):
    """A change that did not happen; the message says why."""


class BusyError(RefusedError):
    """A change that did not happen because of another one; it may be asked for again."""


class ReleasePlan:
    """The one place where releases are decided.

    Its state is that of its replicas too: one that is made anew takes over the newest release that a replica of the
    same configuration reports.

    Args:
        configured: The model that the replicas are deployed with.
        current: What `configured` stands for now, such as a version for an alias.
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
        """Takes what a replica says and returns its orders; one of another configuration goes on as it is."""
        if report.configured != self.configured:
            return Orders(report.release)
        self._reports[replica_id] = (self._now(), report)
        self._reports = {each: entry for each, entry in self._reports.items() if self._is_living(entry[0])}
        number, mine = report.release.number, self.release.number
        # As long as no replica answers with it, a plan's own release is no more than a guess of what they answer with.
        if number > mine or (number == mine and not self._is_confirmed):
            self.release = report.release
            self._is_confirmed = True
        return Orders(self.release, self._candidate)

    def _is_living(self, seen: float) -> bool:
        return seen >= self._now() - LIVING_S

    @property
    def living(self) -> dict[str, Report]:
        """The replicas that have reported lately."""
        return {replica_id: report for replica_id, (seen, report) in self._reports.items() if self._is_living(seen)}

    async def promote(self, slot: Slot, *, followed: str | None = None) -> Release:
        """Makes a model the current one, everywhere.

        Args:
            slot: The model.
            followed: What an alias stands for now, where that is why.

        Raises:
            RefusedError: another change is under way, or a replica cannot load it.
        """
        noted = {} if followed is None else {"followed": followed}
        return await self._change(slot, lambda old: {"current": slot, "previous": self._before(old, slot), **noted})

    async def set_canary(self, slot: Slot, share: float) -> Release:
        """Lets a model answer a share of the requests; see `promote`."""
        return await self._change(slot, lambda _: {"canary": slot, "share": share})

    async def set_share(self, share: float) -> Release:
        """Changes the share of the canary; 0 ends it."""
        if self.release.canary is None:
            raise RefusedError("there is no canary")
        if share == 0:
            return await self._change(None, lambda _: {})
        canary = self.release.canary
        return await self._change(None, lambda _: {"canary": canary, "share": share})

    async def finish_canary(self) -> Release:
        """Makes the canary the current model."""
        canary = self.release.canary
        if canary is None:
            raise RefusedError("there is no canary")
        return await self._change(None, lambda old: {"current": canary, "previous": self._before(old, canary)})

    async def roll_back(self) -> Release:
        """Ends a canary, or goes back to the model before the current one: refused if its files are others by now."""
        if self.release.canary is not None:
            return await self._change(None, lambda _: {})
        previous = self.release.previous
        if previous is None:
            raise RefusedError("there is no earlier model to go back to")
        slot = Slot(previous.uri, previous.name, version=previous.version)
        return await self._change(slot, lambda old: {"current": slot, "previous": self._before(old, slot)})

    def _before(self, old: Release, slot: Slot) -> Slot | None:
        """Returns what a rollback goes back to once `slot` answers: never to the same model once more."""
        current = self._kept(old.current)
        is_same = current.version != "" and current.version == self._kept(slot).version
        return old.previous if is_same else current

    def _kept(self, slot: Slot) -> Slot:
        """Returns a slot with the version that is loaded of it now: its place may hold another one later."""
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
        """Waits until all living replicas, of which there has to be one, say so; returns whether they did in time."""
        deadline = self._now() + LOADING_TIMEOUT_S
        while self._now() < deadline:
            living = self.living
            if living and all([is_done(report) for report in living.values()]):  # noqa: C419 - a failure anywhere raises
                return True
            await asyncio.sleep(REPORT_INTERVAL_S / 5)
        return False

    def status(self) -> dict[str, object]:
        """Returns what an operator is shown."""
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

    def metrics(self, *, without: str) -> list[str]:
        """Returns the numbers that each living replica but one has reported last."""
        return [report.metrics for report in self._others(without)]

    def statistics(self, *, without: str) -> list[Mapping[str, ModelStatistics]]:
        """Returns what the models of each living replica but one had done when it reported last."""
        return [report.statistics for report in self._others(without)]

    def _others(self, without: str) -> list[Report]:
        return [report for replica_id, report in sorted(self.living.items()) if replica_id != without]
