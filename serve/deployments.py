"""The two deployments: the replicas that answer, and the actor that decides which models they answer with."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import sys
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
from serve.model.batching import Batcher
from serve.model.hosted_model import HostedModel, ModelHost
from serve.operations.changes import Change, RefusedError, Rollback
from serve.operations.metrics import Metrics, merge_expositions
from serve.operations.statistics import ModelStatistics, merge_statistics
from serve.release.mlflow_alias import follow_alias
from serve.release.plan import Orders, ReleasePlan, Report, Slot
from serve.release.replica import ManagerUnavailableError, ReplicaReleases
from serve.settings import Limits, ServeArgs
from yt8m_ray.tracking.models import MODEL_SCHEME, registered_name, resolve_model

logger = logging.getLogger("ray.serve.yt8m")

# Seconds after which a waiting thread of Python gets its turn. The model asks for one after each of some forty
# operations; at Python's own 5 ms it waits for the event loop longer than it computes.
_SWITCH_INTERVAL_S = 1e-4


class ReleaseManager:
    """Holds the plan of releases, and follows an MLflow alias if the service is deployed with one."""

    def __init__(self, model: str, alias_interval_s: float) -> None:
        logger.setLevel(logging.INFO)  # Ray Serve sets WARNING
        self._plan = ReleasePlan(model, Slot(resolve_model(model), model))
        self._following: asyncio.Task[None] | None = None
        self._alias_interval_s = alias_interval_s
        self._changes: set[asyncio.Task[dict[str, object]]] = set()

    async def report(self, replica_id: str, report: Report) -> Orders:
        orders = self._plan.report(replica_id, report)
        if self._following is None and "@" in self._plan.configured and self._plan.configured.startswith(MODEL_SCHEME):
            self._following = asyncio.create_task(follow_alias(self._plan, resolve_model, self._alias_interval_s))
        return orders

    async def change(self, change: Change) -> dict[str, object]:
        """Makes a change, also if its caller stops waiting, and returns the status; RefusedError if it was not made."""
        # A task of its own, which this set keeps alive: a cancelled call cancels what it awaits.
        task = asyncio.create_task(self._plan.make(change))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def status(self) -> dict[str, object]:
        return self._plan.status()

    async def other_reports(self, replica_id: str) -> list[Report]:
        return self._plan.other_reports(replica_id)

    def check_health(self) -> None:
        """Raises if the alias is no longer followed; Ray Serve then restarts the manager."""
        if self._following is not None and self._following.done():
            raise RuntimeError("the alias is not followed any more") from self._following.exception()


class PredictionService:
    """The replica: it runs the HTTP application and the models in one process, which saves a second hop."""

    def __init__(self, args: ServeArgs, releases: DeploymentHandle[Any]) -> None:
        assert args.model is not None
        torch.set_num_threads(args.num_threads)
        logger.setLevel(logging.INFO)  # Ray Serve sets WARNING
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self.args = args
        self.limits = Limits()
        self._releases = releases
        self._id = serve.get_replica_context().replica_id.unique_id
        # By what Ray assigned: it does not hide GPUs from a replica that asked for none.
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.metrics = Metrics(self._id)
        self.intake = Intake(lambda: self.limits)
        if args.access_log is not None:
            write_access_log(Path(args.access_log) / f"access-{self._id}.jsonl")
        self.client_tokens = TokenFile(args.tokens_file)
        self.admin_tokens = TokenFile(args.admin_tokens_file, role="an operator")
        load = functools.partial(HostedModel.load, device=device)
        self._replica_releases = ReplicaReleases(args.model, self._report, load, self.metrics)
        self._batcher: Batcher | None = None

    @property
    def host(self) -> ModelHost:
        return self._replica_releases.host

    @property
    def batcher(self) -> Batcher:
        assert self._batcher is not None, "no request comes before the first reconfigure"
        return self._batcher

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Applies `user_config` of serve/config.yaml; Ray Serve calls it at the start and on every change."""
        self.limits = Limits.model_validate(user_config)
        if self._batcher is None:
            # Ray Serve sends requests once this has returned: models are loaded before.
            await self._replica_releases.start()
            self._batcher = Batcher(lambda: self.limits, self.metrics.observe_batch)
            self.metrics.watch_queue(lambda: self.batcher.num_queued)

    def is_ready(self) -> bool:
        """Whether a model has answered its warm-up, its thread runs, and releases are followed."""
        return self._replica_releases.is_following and self._batcher is not None and self._batcher.is_alive

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self, sends_ids=False)

    async def change(self, change: Change) -> dict[str, Any]:
        """Makes a change of releases on all replicas and returns the status after it.

        RequestError 404 if the configuration does not name the model, 409 if the change was refused.
        """
        if not isinstance(change, Rollback) and change.model is not None:
            change = dataclasses.replace(change, uri=self._uri_of(change.model))
        try:
            status: dict[str, Any] = await self._releases.change.remote(change)
        except RefusedError as error:
            raise RequestError(409, f"refused, nothing was changed: {error.reason}") from None
        return status

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = await self._releases.status.remote()
        return status

    async def exposition(self) -> str:
        return merge_expositions([self.metrics.text(), *(report.metrics for report in await self._other_reports())])

    async def statistics(self) -> dict[str, ModelStatistics]:
        """Returns the statistics of all replicas, by model version."""
        others = [report.statistics for report in await self._other_reports()]
        return merge_statistics([self.metrics.statistics.snapshot(), *others])

    async def _other_reports(self) -> list[Report]:
        # Without a manager this replica's own numbers remain.
        with contextlib.suppress(RayError, RayServeException):
            reports: list[Report] = await self._releases.other_reports.remote(self._id)
            return reports
        return []

    def _uri_of(self, name: str) -> str:
        # Only the configuration names places: a request must not make a replica read any path.
        if name in self.limits.models:
            return self.limits.models[name]
        registered = registered_name(self.args.model or "")
        if registered is not None and name.isdigit():
            return f"{MODEL_SCHEME}{registered}/{name}"
        valid = ", ".join(self.limits.models) or "none (user_config.models)"
        also = f", and the versions of {registered} in MLflow by number" if registered else ""
        raise RequestError(404, f"model: {name[:60]!r} is not in the configuration; valid: {valid}{also}")

    async def _report(self, report: Report) -> Orders:
        try:
            orders: Orders = await self._releases.report.remote(self._id, report)
        except (RayError, RayServeException) as error:
            raise ManagerUnavailableError(str(error)) from error
        return orders

    def check_health(self) -> None:
        """Raises if the replica cannot go on; Ray Serve then replaces it."""
        if self._batcher is None:
            raise RuntimeError("PredictionService needs user_config in its configuration, at least {}")
        self._replica_releases.check()
        self._batcher.check_alive()
