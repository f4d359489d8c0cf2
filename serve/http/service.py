"""What the HTTP application asks of the replica that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from serve.http.intake import Intake
from serve.http.tokens import TokenFile
from serve.model.batching import Answer, Batcher
from serve.model.hosted_model import HostedModel, ModelHost
from serve.operations.metrics import Metrics
from serve.operations.statistics import ModelStatistics
from serve.settings import Limits, ServeArgs
from yt8m_ray.data.format.features import VideoRow


class Service(Protocol):
    """A replica, or what stands for one in a test.

    Attributes:
        metrics: The numbers of this replica.
        intake: What is held of bodies that are on their way to the queue.
        client_tokens, admin_tokens: Who may ask, and who may change.
    """

    metrics: Metrics
    intake: Intake
    client_tokens: TokenFile
    admin_tokens: TokenFile

    @property
    def host(self) -> ModelHost: ...

    @property
    def args(self) -> ServeArgs: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def batcher(self) -> Batcher: ...

    def ask(self, model: HostedModel, rows: Sequence[VideoRow], top_k: int) -> list[asyncio.Future[Answer]]: ...

    def is_ready(self) -> bool: ...

    async def change(self, what: str, name: str | None, share: float) -> dict[str, Any]: ...

    async def status(self) -> dict[str, Any]: ...

    async def exposition(self) -> str: ...

    async def statistics(self) -> Mapping[str, ModelStatistics]: ...
