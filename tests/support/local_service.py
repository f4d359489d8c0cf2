"""The service in this process: real models and the real queue, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from serve.errors import RequestError
from serve.http.intake import Intake
from serve.http.tokens import TokenFile
from serve.model.batching import Batcher
from serve.model.hosted_model import HostedModel, ModelHost
from serve.operations.changes import Change
from serve.operations.metrics import Metrics, merge_expositions
from serve.operations.statistics import ModelStatistics, merge_statistics
from serve.settings import Limits, ServeArgs
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.inference.predictor import Predictor


class LocalService:
    """What a replica is to the HTTP application; changes of releases are only recorded."""

    def __init__(
        self,
        model: Predictor,
        limits: Limits | None = None,
        args: ServeArgs | None = None,
        batcher: type[Batcher] = Batcher,
    ) -> None:
        self.host = ModelHost(HostedModel("model", model))
        self.metrics = Metrics("local")
        args = args or ServeArgs()
        self.args = args.model_copy(update={"allowed_hosts": (*args.allowed_hosts, "testserver")})  # as TestClient asks
        self.limits = limits or Limits()
        self.intake = Intake(lambda: self.limits)
        self.client_tokens = TokenFile(self.args.tokens_file)
        self.admin_tokens = TokenFile(self.args.admin_tokens_file, role="an operator")
        self.changes: list[Change] = []
        self.ready = True
        self._batcher_type = batcher
        self._batchers: dict[asyncio.AbstractEventLoop, Batcher] = {}

    @property
    def batcher(self) -> Batcher:
        """The queue of this event loop: a TestClient outside of a `with` block has one for each request."""
        loop = asyncio.get_running_loop()
        if loop not in self._batchers:
            for ended in [each for each in self._batchers if each.is_closed()]:
                self._batchers.pop(ended).close()
            self._batchers[loop] = self._batcher_type(lambda: self.limits, self.metrics.observe_batch)
            self.metrics.watch_queue(lambda: self._batchers[loop].num_queued)
        return self._batchers[loop]

    def is_ready(self) -> bool:
        return self.ready

    async def change(self, change: Change) -> dict[str, Any]:
        if getattr(change, "model", None) == "broken":
            raise RequestError(409, "refused, nothing was changed: broken: no such folder")
        self.changes.append(change)
        return await self.status()

    async def status(self) -> dict[str, Any]:
        return {"release": {"number": len(self.changes)}}

    async def exposition(self) -> str:
        return merge_expositions([self.metrics.text()])

    async def statistics(self) -> dict[str, ModelStatistics]:
        return merge_statistics([self.metrics.statistics.snapshot()])

    def close(self) -> None:
        """Ends the threads of the models, before the event loops that they answer to."""
        for batcher in self._batchers.values():
            batcher.close()


def administered_service(folder: Path) -> LocalService:
    """Returns a service of a tiny model whose operators have the token `the-token`."""
    (folder / "tokens").write_text("the-token\n", encoding="utf-8")
    predictor = Predictor.from_path(save_checkpoint_of(folder / "checkpoint"))
    return LocalService(predictor, args=ServeArgs(admin_tokens_file=str(folder / "tokens")))


def every_number() -> Metrics:
    """Returns metrics of which each has counted something."""
    metrics = Metrics("r")
    metrics.begin_request()
    metrics.observe_request("/v1/predict", 503, 0.1, "overloaded")
    metrics.observe_stage("model", 0.1)
    metrics.observe_batch("v", 3, 0.1)
    metrics.set_models([("m", "v")])
    return metrics
