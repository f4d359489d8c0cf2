"""A replica's side of releases: it loads models, reports, switches and drops models as the manager orders."""

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

# How old the metrics of a report may be: writing them takes a millisecond, in which no request is answered.
_METRICS_INTERVAL_S = 2.0


class ManagerUnavailableError(Exception):
    """The release manager did not answer; the models stay as they are."""


class ReplicaReleases:
    """The models of one replica, which is deployed with the model `configured`.

    `send` sends a report to the release manager and returns its orders, or raises ManagerUnavailableError; `load`
    returns the model at a place after its checks, and is called in a thread.
    """

    def __init__(
        self,
        configured: str,
        send: Callable[[Report], Awaitable[Orders]],
        load: Callable[[str], HostedModel],
        metrics: Metrics,
    ) -> None:
        self._configured = configured
        self._send = send
        self._load = load
        self._metrics = metrics
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        # Below all numbers of a plan, which does not take it over.
        self._release = Release(-1, Slot(configured, configured))
        self._loaded: dict[int, HostedModel] = {}
        self._failures: dict[int, str] = {}
        self._host: ModelHost | None = None
        self._following: asyncio.Task[None] | None = None
        self._metrics_text, self._metrics_due = "", 0.0
        self._statistics: dict[str, ModelStatistics] = {}

    @property
    def host(self) -> ModelHost:
        assert self._host is not None, "no request comes before `start` has returned"
        return self._host

    @property
    def is_following(self) -> bool:
        """Whether models are loaded and orders are followed."""
        return self._following is not None and not self._following.done()

    async def start(self) -> None:
        """Loads what the other replicas answer with, or the configured model, and follows orders from then on.

        ManagerUnavailableError if there is no release manager, errors of `load` if a model cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        release = (await self._send(self._report())).release
        for slot in release.slots:
            self._loaded[slot.id] = await loop.run_in_executor(self._loader, self._load, slot.uri)
        self._host = ModelHost(self._loaded[release.current.id])
        self._switch_to(release)
        self._following = asyncio.create_task(self._follow())

    def check(self) -> None:
        """Raises RuntimeError if orders are no longer followed."""
        if self._following is not None and self._following.done():
            cause = None if self._following.cancelled() else self._following.exception()
            raise RuntimeError(f"the replica does not follow the releases any more: {cause}") from cause

    async def stop(self) -> None:
        """Stops following orders; the current models go on answering."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _follow(self) -> None:
        is_available = True
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            try:
                orders = await self._send(self._report())
            except ManagerUnavailableError as error:
                # Once, and not at each interval.
                if is_available:
                    logger.warning("the release manager does not answer, models stay as they are: %s", error)
                is_available = False
                continue
            is_available = True
            await self._follow_orders(orders)

    async def _follow_orders(self, orders: Orders) -> None:
        for slot in orders.slots:
            await self._load_slot(slot)
        self._switch_to(orders.release)
        for slot in orders.release.slots:
            if slot.id in self._failures:
                # A candidate is refused for all, but with this one the others answer. A new replica may load it.
                raise RuntimeError(f"{slot.uri}, which the others answer with, cannot be loaded")
        wanted = {slot.id for slot in (*orders.slots, *self._release.slots)}
        self._loaded = {slot_id: model for slot_id, model in self._loaded.items() if slot_id in wanted}
        self._failures = {slot_id: why for slot_id, why in self._failures.items() if slot_id in wanted}

    async def _load_slot(self, slot: Slot) -> None:
        """Loads a model, or records why it cannot be loaded."""
        if slot.id in self._loaded or slot.id in self._failures:
            return
        loading = asyncio.get_running_loop().run_in_executor(self._loader, self._load, slot.uri)
        while not loading.done():
            await asyncio.wait([loading], timeout=REPORT_INTERVAL_S)
            with contextlib.suppress(ManagerUnavailableError):
                # Loading may take longer than LIVING_S, after which the manager counts a replica as dead.
                await self._send(self._report())
        # Whatever is wrong with a bundle, the replica keeps its old model and does not fail.
        error = loading.exception()
        if error is not None:
            is_expected = isinstance(error, ValueError | OSError | RuntimeError)
            logger.error("%s cannot be loaded: %s", slot.uri, error, exc_info=None if is_expected else error)
            self._failures[slot.id] = str(error) or type(error).__name__
        elif slot.version not in ("", loading.result().version):
            self._failures[slot.id] = f"expected version {slot.version}, found {loading.result().version}"
        else:
            self._loaded[slot.id] = loading.result()

    def _switch_to(self, release: Release) -> None:
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
        if time.monotonic() >= self._metrics_due:
            self._metrics_text, self._metrics_due = self._metrics.text(), time.monotonic() + _METRICS_INTERVAL_S
            self._statistics = self._metrics.statistics.snapshot()
        failures = dict(self._failures)
        return Report(self._configured, self._release, versions, failures, self._metrics_text, self._statistics)
