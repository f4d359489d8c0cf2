"""What a replica does with the orders of the release manager: load, report, switch, drop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from serve.model.hosted_model import HostedModel, ModelHost
from serve.operations.metrics import Metrics
from serve.operations.statistics import ModelStatistics
from serve.release.plan import REPORT_INTERVAL_S, Orders, Release, Report, Slot

logger = logging.getLogger("ray.serve.yt8m")

_NUMBERS_INTERVAL_S = 2.0
"""How old the numbers of a report may be: writing them takes a millisecond, in which no request is answered."""


class AwayError(Exception):
    """The release manager did not answer; models stay as they are."""


class ReplicaReleases:
    """The models of one replica.

    Args:
        configured: The model that the replica is deployed with.
        ask: Takes a report to the release manager and brings its orders, or raises AwayError.
        load: Returns the model of a place after its checks; called in a thread.
        metrics: Told which models answer, and reported.
    """

    def __init__(
        self,
        configured: str,
        ask: Callable[[Report], Awaitable[Orders]],
        load: Callable[[str], HostedModel],
        metrics: Metrics,
    ) -> None:
        self._configured = configured
        self._ask = ask
        self._load = load
        self._metrics = metrics
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._release = Release(-1, Slot(configured, configured))
        self._loaded: dict[int, HostedModel] = {}
        self._failures: dict[int, str] = {}
        self._host: ModelHost | None = None
        self._following: asyncio.Task[None] | None = None
        self._is_away = False
        self._numbers, self._numbers_due = "", 0.0
        self._statistics: dict[str, ModelStatistics] = {}

    @property
    def host(self) -> ModelHost:
        """The models that answer."""
        assert self._host is not None, "no request comes before `start` is through"
        return self._host

    @property
    def is_following(self) -> bool:
        """Whether models are loaded and orders are taken."""
        return self._following is not None and not self._following.done()

    async def start(self) -> None:
        """Loads what the other replicas answer with, or what is configured, and follows from then on.

        Raises:
            AwayError: there is no release manager.
            ValueError, OSError, RuntimeError: a model cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        release = (await self._ask(self._report())).release
        for slot in release.slots:
            self._loaded[slot.id] = await loop.run_in_executor(self._loader, self._load, slot.uri)
        self._host = ModelHost(self._loaded[release.current.id])
        self._take(release)
        self._following = asyncio.create_task(self._follow())

    def check(self) -> None:
        """Raises RuntimeError where the replica does not follow any more."""
        if self._following is not None and self._following.done():
            cause = None if self._following.cancelled() else self._following.exception()
            raise RuntimeError(f"the replica does not follow the releases any more: {cause}") from cause

    async def stop(self) -> None:
        """Follows no more; what answers goes on."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            try:
                orders = await self._ask(self._report())
            except AwayError as error:
                if not self._is_away:
                    logger.warning("the release manager does not answer, models stay as they are: %s", error)
                self._is_away = True
                continue
            self._is_away = False
            await self._obey(orders)

    async def _obey(self, orders: Orders) -> None:
        for slot in orders.slots:
            await self._have(slot)
        self._take(orders.release)
        for slot in orders.release.slots:
            if slot.id in self._failures:
                # A candidate is refused for all; this one the others answer with. A replica made anew may manage it.
                raise RuntimeError(f"{slot.uri}, which the others answer with, cannot be loaded")
        wanted = {slot.id for slot in (*orders.slots, *self._release.slots)}
        self._loaded = {slot_id: model for slot_id, model in self._loaded.items() if slot_id in wanted}
        self._failures = {slot_id: why for slot_id, why in self._failures.items() if slot_id in wanted}

    async def _have(self, slot: Slot) -> None:
        """Loads a model, or notes why not, and goes on reporting meanwhile: the manager has to know that this lives."""
        if slot.id in self._loaded or slot.id in self._failures:
            return
        loading = asyncio.get_running_loop().run_in_executor(self._loader, self._load, slot.uri)
        while not loading.done():
            await asyncio.wait([loading], timeout=REPORT_INTERVAL_S)
            with contextlib.suppress(AwayError):
                await self._ask(self._report())
        # Whatever is wrong with a bundle is a reason to stay at the old one, and none to fail.
        error = loading.exception()
        if error is not None:
            is_expected = isinstance(error, ValueError | OSError | RuntimeError)
            logger.error("%s cannot be loaded: %s", slot.uri, error, exc_info=None if is_expected else error)
            self._failures[slot.id] = str(error) or type(error).__name__
        elif slot.version not in ("", loading.result().version):
            self._failures[slot.id] = f"expected version {slot.version}, found {loading.result().version}"
        else:
            self._loaded[slot.id] = loading.result()

    def _take(self, release: Release) -> None:
        """Answers with a release from the next request on, if all of it is loaded."""
        if any(slot.id not in self._loaded for slot in release.slots):
            return
        self.host.current = self._loaded[release.current.id]
        self.host.canary = None if release.canary is None else self._loaded[release.canary.id]
        self.host.canary_share = release.share
        if release != self._release:
            logger.info("release %d: answers with %s", release.number, self.host.current.version)
            self._metrics.set_models([(slot.name, self._loaded[slot.id].version) for slot in release.slots])
        self._release = release

    def _report(self) -> Report:
        versions = {slot_id: model.version for slot_id, model in self._loaded.items()}
        if time.monotonic() >= self._numbers_due:
            self._numbers, self._numbers_due = self._metrics.text(), time.monotonic() + _NUMBERS_INTERVAL_S
            self._statistics = self._metrics.statistics.snapshot()
        failures = dict(self._failures)
        return Report(self._configured, self._release, versions, failures, self._numbers, self._statistics)
