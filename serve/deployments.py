"""The replicas of the service and the one actor that tells them which models to answer with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve.api import build_api
from serve.batching import Answer, Batcher
from serve.errors import RequestError
from serve.hosting import HostedModel, ModelHost
from serve.metrics import Metrics
from serve.releases import REPORT_INTERVAL_S, Orders, RefusedError, Release, ReleasePlan, Report, Slot
from serve.schemas import Limits, ServeArgs
from serve.tokens import TokenFile
from yt8m_ray.data.features import VideoRow
from yt8m_ray.model_registry import MODEL_SCHEME, registered_name, resolve_model

logger = logging.getLogger("ray.serve")

_NOT_LOADED = (ValueError, OSError, RuntimeError)
"""What a model that cannot be loaded raises; anything else is a fault of the program."""


class ReleaseManager:
    """Holds the plan of releases, and follows an alias of MLflow where the service is deployed with one.

    Args:
        model: What the service is deployed with.
        alias_interval_s: How often MLflow is asked.
    """

    def __init__(self, model: str, alias_interval_s: float) -> None:
        self._plan = ReleasePlan(model, Slot(resolve_model(model), model, 0))
        self._followed: asyncio.Task[None] | None = None
        self._alias_interval_s = alias_interval_s
        self._refused = ""

    async def report(self, replica_id: str, report: Report) -> Orders:
        """Takes what a replica says and returns its orders."""
        if self._followed is None and "@" in self._plan.configured and self._plan.configured.startswith(MODEL_SCHEME):
            self._followed = asyncio.create_task(self._follow_alias())
        return self._plan.report(replica_id, report)

    async def change(self, what: str, uri: str, name: str, share: float) -> dict[str, Any]:
        """Makes a change and returns the state after it, or the reason why it did not happen as `refused`."""
        plan = self._plan
        try:
            if what == "promote":
                await (plan.promote(plan.new_slot(uri, name)) if uri else plan.finish_canary())
            elif what == "canary":
                await (plan.set_canary(plan.new_slot(uri, name), share) if uri else plan.set_share(share))
            else:
                await plan.roll_back()
        except RefusedError as error:
            return {"refused": str(error), **plan.status()}
        return plan.status()

    async def status(self) -> dict[str, Any]:
        """Returns what an operator is shown."""
        return self._plan.status()

    async def metrics(self, without: str) -> str:
        """Returns the numbers of all replicas but one."""
        return self._plan.metrics(without=without)

    async def _follow_alias(self) -> None:
        """Promotes what the alias points to, when it has moved; what was refused is not tried again."""
        seen = self._plan.release.current.uri
        while True:
            await asyncio.sleep(self._alias_interval_s)
            try:
                uri = await asyncio.to_thread(resolve_model, self._plan.configured)
            except (ValueError, OSError) as error:
                logger.warning("%s: %s; the models stay as they are", self._plan.configured, error)
                continue
            if uri == seen:
                continue
            seen = uri
            try:
                await self._plan.promote(self._plan.new_slot(uri, uri))
            except RefusedError as error:
                logger.error("%s: refused, the models stay as they are: %s", uri, error)


class PredictionService:
    """Answers the HTTP application of `serve.api`, in the process that takes requests: no second hop.

    Args:
        args: What it is deployed with; its model is named.
        releases: The release manager.
    """

    def __init__(self, args: ServeArgs, releases: DeploymentHandle[Any]) -> None:
        assert args.model is not None
        torch.set_num_threads(args.num_threads)
        self._args = args
        self._releases = releases
        self._limits = Limits()
        self._id = serve.get_replica_context().replica_id.unique_id
        # By what Ray assigned: it hides no GPU from a replica that asked for none.
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.metrics = Metrics(self._id)
        self.client_tokens = TokenFile(args.tokens_file)
        self.admin_tokens = TokenFile(args.admin_tokens_file)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._failures: dict[int, str] = {}
        self._loaded: dict[int, HostedModel] = {}
        self._release = Release(-1, Slot(args.model, args.model, 0))
        self._host: ModelHost | None = None
        self._batcher: Batcher | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def limits(self) -> Limits:
        """The limits that are in force now."""
        return self._limits

    @property
    def args(self) -> ServeArgs:
        """What it was deployed with."""
        return self._args

    @property
    def host(self) -> ModelHost:
        """The models."""
        assert self._host is not None, "no request comes before the first reconfigure"
        return self._host

    @property
    def batcher(self) -> Batcher:
        """The queue in front of the models."""
        assert self._batcher is not None, "no request comes before the first reconfigure"
        return self._batcher

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes over `user_config` of serve/config.yaml; Ray Serve calls it at the start and on every change."""
        self._limits = Limits.model_validate(user_config)
        if self._batcher is None:
            await self._start()

    async def _start(self) -> None:
        """Loads what the other replicas answer with, before this one counts as ready."""
        orders: Orders = await self._releases.report.remote(self._id, self._report())
        for slot in orders.release.slots:
            self._loaded[slot.id] = await asyncio.to_thread(HostedModel.load, slot.uri, device=self._device)
        self._host = ModelHost(self._loaded[orders.release.current.id])
        self._take(orders.release)
        self._batcher = Batcher(lambda: self._limits, self.metrics.observe_batch)
        self._following = asyncio.create_task(self._follow())

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self)

    def ask(self, model: HostedModel, rows: Sequence[VideoRow], top_k: int) -> list[asyncio.Future[Answer]]:
        """Queues videos for a model; see `Batcher.ask`."""
        return self.batcher.ask(model, rows, top_k)

    async def change(self, what: str, name: str | None, share: float) -> dict[str, Any]:
        """Makes a change of releases for all replicas.

        Raises:
            RequestError: the name stands for no model, or the change was refused.
        """
        uri = "" if name is None else self._place_of(name)
        status: dict[str, Any] = await self._releases.change.remote(what, uri, name or "", share)
        if "refused" in status:
            raise RequestError(409, f"refused, nothing was changed: {status['refused']}")
        return status

    async def status(self) -> dict[str, Any]:
        """Returns the state of the releases."""
        status: dict[str, Any] = await self._releases.status.remote()
        return status

    async def exposition(self) -> str:
        """Returns the numbers of all replicas in Prometheus' text form."""
        try:
            others: str = await self._releases.metrics.remote(self._id)
        except (RayError, RayServeException):
            others = ""
        return self.metrics.text() + others

    def _place_of(self, name: str) -> str:
        """Returns the place of a model that the configuration names: no request can name a path."""
        if name in self._limits.models:
            return self._limits.models[name]
        registered = registered_name(self._args.model or "")
        if registered is not None and name.isdigit():
            return f"{MODEL_SCHEME}{registered}/{name}"
        valid = ", ".join(self._limits.models) or "none (user_config.models)"
        also = f", and the versions of {registered} in MLflow by number" if registered else ""
        raise RequestError(404, f"model: {name[:60]!r} is not in the configuration; valid: {valid}{also}")

    async def _follow(self) -> None:
        """Reports and does as it is told, for as long as the replica lives."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            try:
                orders: Orders = await self._releases.report.remote(self._id, self._report())
            except (RayError, RayServeException) as error:
                logger.warning("the release manager does not answer, models stay as they are: %s", error)
                continue
            for slot in orders.slots:
                await self._load(slot)
            self._take(orders.release)
            wanted = {slot.id for slot in orders.slots}
            for slot_id in self._loaded.keys() - wanted:
                self.batcher.forget(self._loaded.pop(slot_id))
            self._failures = {slot_id: why for slot_id, why in self._failures.items() if slot_id in wanted}

    def _report(self) -> Report:
        versions = {slot_id: model.version for slot_id, model in self._loaded.items()}
        return Report(self._args.model or "", self._release, versions, dict(self._failures), self.metrics.text())

    async def _load(self, slot: Slot) -> None:
        if slot.id in self._loaded or slot.id in self._failures:
            return
        loop = asyncio.get_running_loop()
        loading = loop.run_in_executor(self._loader, lambda: HostedModel.load(slot.uri, device=self._device))
        while not loading.done():  # it takes seconds, and the manager has to know that this replica lives
            await asyncio.wait([loading], timeout=REPORT_INTERVAL_S)
            with contextlib.suppress(RayError, RayServeException):
                await self._releases.report.remote(self._id, self._report())
        try:
            self._loaded[slot.id] = loading.result()
        except _NOT_LOADED as error:
            logger.error("%s cannot be loaded: %s", slot.uri, error)
            self._failures[slot.id] = str(error)

    def _take(self, release: Release) -> None:
        """Answers with a release from the next request on, if all of it is loaded."""
        if any(slot.id not in self._loaded for slot in release.slots):
            return
        self.host.current = self._loaded[release.current.id]
        self.host.canary = None if release.canary is None else self._loaded[release.canary.id]
        self.host.canary_share = release.share
        if release != self._release:
            logger.info("release %d: answers with %s", release.number, self.host.current.version)
        self._release = release
        self.metrics.set_models([(slot.name, self._loaded[slot.id].version) for slot in release.slots])

    def check_health(self) -> None:
        """Raises where the replica cannot go on; Ray Serve then replaces it."""
        if self._following is not None and self._following.done():
            raise RuntimeError("the replica does not follow the releases any more")
        if self._batcher is not None:
            self._batcher.check_alive()
