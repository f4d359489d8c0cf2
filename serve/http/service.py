"""What the HTTP application needs of its replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from serve.http.intake import Intake
from serve.http.tokens import TokenFile
from serve.model.batching import Batcher
from serve.model.hosted_model import ModelHost
from serve.operations.changes import Change
from serve.operations.metrics import Metrics
from serve.operations.statistics import ModelStatistics
from serve.settings import Limits, ServeArgs


class Service(Protocol):
    """A replica: `serve.deployments.PredictionService`, or a local one in tests."""

    args: ServeArgs
    limits: Limits
    metrics: Metrics
    intake: Intake
    client_tokens: TokenFile
    admin_tokens: TokenFile

    @property
    def host(self) -> ModelHost: ...

    @property
    def batcher(self) -> Batcher: ...

    def is_ready(self) -> bool: ...

    async def change(self, change: Change) -> dict[str, Any]: ...

    async def status(self) -> dict[str, Any]: ...

    async def exposition(self) -> str: ...

    async def statistics(self) -> Mapping[str, ModelStatistics]: ...
