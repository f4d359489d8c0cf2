"""The numbers of a replica, as Prometheus reads them; each carries the replica's id."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What one replica counts.

    Args:
        replica: Its id, a label of all numbers.
    """

    def __init__(self, replica: str) -> None:
        self._registry = CollectorRegistry()
        self._replica = replica
        replicas = ("replica",)
        self._requests = Counter(
            "yt8m_requests", "Requests by route and status", (*replicas, "route", "status"), registry=self._registry
        )
        self._request_seconds = Histogram(
            "yt8m_request_seconds",
            "From the first byte of a request to the last of its answer",
            (*replicas, "route"),
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._stage_seconds = Histogram(
            "yt8m_stage_seconds",
            "Time of a request by stage: body, decode, queue, model, encode",
            (*replicas, "stage"),
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._batch_size = Histogram(
            "yt8m_batch_size", "Videos a batch", replicas, buckets=_SIZE_BUCKETS, registry=self._registry
        )
        self._videos = Counter("yt8m_videos", "Videos that were answered", replicas, registry=self._registry)
        self._models = Gauge(
            "yt8m_model", "1 for each model that answers", (*replicas, "model", "version"), registry=self._registry
        )

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self._requests.labels(self._replica, route, status).inc()
        self._request_seconds.labels(self._replica, route).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Counts the time of one stage of a request."""
        self._stage_seconds.labels(self._replica, stage).observe(seconds)

    def observe_batch(self, size: int, seconds: float) -> None:
        """Counts a batch that went through a model; may be called in any thread."""
        del seconds  # each request's share of it is in its stages
        self._batch_size.labels(self._replica).observe(size)
        self._videos.labels(self._replica).inc(size)

    def set_models(self, models: Sequence[tuple[str, str]]) -> None:
        """Says which models answer, as pairs of name and version."""
        self._models.clear()
        for name, version in models:
            self._models.labels(self._replica, name, version).set(1)

    def text(self) -> str:
        """Returns all numbers in Prometheus' text form."""
        return generate_latest(self._registry).decode()
