"""The replicas of the service and the one actor that tells them which models to answer with."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve.errors import RequestError
from serve.http.access_log import write_access_log
from serve.http.api import build_api
from serve.http.intake import Intake
from serve.http.tokens import TokenFile
from serve.model.batching import Answer, Batcher
from serve.model.hosted_model import HostedModel, ModelHost
from serve.operations.metrics import Metrics, merge_expositions
from serve.operations.statistics import ModelStatistics, merge_statistics
from serve.release.mlflow_alias import follow_alias
from serve.release.plan import Orders, RefusedError, ReleasePlan, Report, Slot
from serve.release.replica import AwayError, ReplicaReleases
from serve.settings import Limits, ServeArgs
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.tracking.models import MODEL_SCHEME, registered_name, resolve_model

logger = logging.getLogger("ray.serve.yt8m")

_SWITCH_INTERVAL_S = 1e-4
"""How long a thread of Python may hold up another. The model asks for its turn after each of some forty operations; at
Python's own 5 ms it waits for the event loop longer than it computes."""


class ReleaseManager:
    """Holds the plan of releases, and follows an alias of MLflow where the service is deployed with one.

    Args:
        model: What the service is deployed with.
        alias_interval_s: How often MLflow is asked.
    """

    def __init__(self, model: str, alias_interval_s: float) -> None:
        logger.setLevel(logging.INFO)  # whatever Ray Serve's own is
        self._plan = ReleasePlan(model, Slot(resolve_model(model), model))
        self._followed: asyncio.Task[None] | None = None
        self._alias_interval_s = alias_interval_s
        self._changes: set[asyncio.Task[dict[str, Any]]] = set()

    async def report(self, replica_id: str, report: Report) -> Orders:
        """Takes what a replica says and returns its orders."""
        orders = self._plan.report(replica_id, report)
        if self._followed is None and "@" in self._plan.configured and self._plan.configured.startswith(MODEL_SCHEME):
            self._followed = asyncio.create_task(follow_alias(self._plan, resolve_model, self._alias_interval_s))
        return orders

    async def change(self, what: str, uri: str, name: str, share: float) -> dict[str, Any]:
        """Makes a change and returns the state after it, or the reason why it did not happen as `refused`.

        A change goes on when the one who asked for it does not wait any more.
        """
        change = asyncio.create_task(self._change(what, uri, name, share))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)
        return await asyncio.shield(change)

    async def _change(self, what: str, uri: str, name: str, share: float) -> dict[str, Any]:
        plan = self._plan
        try:
            if what == "promote":
                await (plan.promote(Slot(uri, name)) if uri else plan.finish_canary())
            elif what == "canary":
                await (plan.set_canary(Slot(uri, name), share) if uri else plan.set_share(share))
            else:
                await plan.roll_back()
        except RefusedError as error:
            return {"refused": str(error), **plan.status()}
        return plan.status()

    async def status(self) -> dict[str, Any]:
        """Returns what an operator is shown."""
        return self._plan.status()

    async def metrics(self, without: str) -> list[str]:
        """Returns the numbers of each replica but one."""
        return self._plan.metrics(without=without)

    async def statistics(self, without: str) -> list[Mapping[str, ModelStatistics]]:
        """Returns what the models of each replica but one have done."""
        return self._plan.statistics(without=without)

    def check_health(self) -> None:
        """Raises where the alias is not followed any more; Ray Serve then makes a manager anew."""
        if self._followed is not None and self._followed.done():
            raise RuntimeError("the alias is not followed any more") from self._followed.exception()


class PredictionService:
    """Answers the HTTP application of `serve.http.api`, in the process that takes requests: no second hop.

    Args:
        args: What it is deployed with; its model is named.
        releases: The release manager.
    """

    def __init__(self, args: ServeArgs, releases: DeploymentHandle[Any]) -> None:
        assert args.model is not None
        torch.set_num_threads(args.num_threads)
        logger.setLevel(logging.INFO)  # whatever Ray Serve's own is
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._args = args
        self._releases = releases
        self._limits = Limits()
        self._id = serve.get_replica_context().replica_id.unique_id
        # By what Ray assigned: it hides no GPU from a replica that asked for none.
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.metrics = Metrics(self._id)
        self.intake = Intake(lambda: self._limits)
        if args.access_log is not None:
            write_access_log(Path(args.access_log) / f"access-{self._id}.jsonl")
        self.client_tokens = TokenFile(args.tokens_file)
        self.admin_tokens = TokenFile(args.admin_tokens_file)
        load = functools.partial(HostedModel.load, device=self._device)
        self._replica_releases = ReplicaReleases(args.model, self._ask_manager, load, self.metrics)
        self._batcher: Batcher | None = None

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
        return self._replica_releases.host

    @property
    def batcher(self) -> Batcher:
        """The queue in front of the models."""
        assert self._batcher is not None, "no request comes before the first reconfigure"
        return self._batcher

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes over `user_config` of serve/config.yaml; Ray Serve calls it at the start and on every change."""
        self._limits = Limits.model_validate(user_config)
        if self._batcher is None:
            await self._replica_releases.start()  # before this replica counts as ready
            self._batcher = Batcher(lambda: self._limits, self.metrics.observe_batch)
            self.metrics.watch_queue(lambda: self.batcher.num_queued)

    def is_ready(self) -> bool:
        """Whether a model has answered its warm-up, its thread lives, and changes of models are followed."""
        return self._replica_releases.is_following and self._batcher is not None and self._batcher.is_alive

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self, sends_ids=False)

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
        others: list[str] = []
        with contextlib.suppress(RayError, RayServeException):
            others = await self._releases.metrics.remote(self._id)
        return merge_expositions([self.metrics.text(), *others])

    async def statistics(self) -> dict[str, ModelStatistics]:
        """Returns what the models of all replicas have done, by their versions."""
        others: list[Mapping[str, ModelStatistics]] = []
        with contextlib.suppress(RayError, RayServeException):
            others = await self._releases.statistics.remote(self._id)
        return merge_statistics([self.metrics.statistics.snapshot(), *others])

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

    async def _ask_manager(self, report: Report) -> Orders:
        try:
            orders: Orders = await self._releases.report.remote(self._id, report)
        except (RayError, RayServeException) as error:
            raise AwayError(str(error)) from error
        return orders

    def check_health(self) -> None:
        """Raises where the replica cannot go on; Ray Serve then replaces it."""
        if self._batcher is None:
            raise RuntimeError("PredictionService needs user_config in its configuration, at least {}")
        self._replica_releases.check()
        self._batcher.check_alive()
