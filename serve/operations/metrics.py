"""The numbers of a replica, as Prometheus reads them; each carries the replica's id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.operations.statistics import Statistics

STAGES = ("body", "decode", "queue", "model", "encode")
"""Of a request, in their order."""

_LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def merge_expositions(texts: Iterable[str]) -> str:
    """Returns one exposition of several in Prometheus' text form: each family once, with the samples of all.

    The texts are of `Metrics.text`. When series were made is left out: it would double their number.
    """
    families: dict[str, list[str]] = {}
    samples: list[str] = []
    for line in (line for text in texts for line in text.splitlines()):
        if line.startswith("# HELP "):
            is_wanted = not line.split(" ", 3)[2].endswith("_created")
            samples = families.setdefault(line, []) if is_wanted else []
        elif not line.startswith("# TYPE ") or not samples:
            samples.append(line)
    lines = [line for help_line, lines in families.items() for line in (help_line, *lines)]
    return "".join(f"{line}\n" for line in lines)


class Metrics:
    """What one replica counts.

    Args:
        replica: Its id, a label of all numbers.

    Attributes:
        statistics: What each model has done.
    """

    def __init__(self, replica: str) -> None:
        self.statistics = Statistics()
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
        stage_seconds = Histogram(
            "yt8m_stage_seconds",
            f"Time of a request by stage: {', '.join(STAGES)}",
            (*replicas, "stage"),
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._stages = {stage: stage_seconds.labels(replica, stage) for stage in STAGES}
        self._batch_size = Histogram(
            "yt8m_batch_size", "Videos a batch", replicas, buckets=_SIZE_BUCKETS, registry=self._registry
        ).labels(replica)
        self._videos = Counter("yt8m_videos", "Videos that were answered", replicas, registry=self._registry).labels(
            replica
        )
        self._models = Gauge(
            "yt8m_model", "1 for each model that answers", (*replicas, "model", "version"), registry=self._registry
        )

        self._in_flight = Gauge(
            "yt8m_requests_in_flight", "Requests that are being answered", replicas, registry=self._registry
        ).labels(replica)
        self._queued = Gauge(
            "yt8m_queued_videos", "Videos that wait for the model", replicas, registry=self._registry
        ).labels(replica)
        self._refusals = Counter(
            "yt8m_refusals",
            "Requests that were refused, by the code of their error",
            (*replicas, "code"),
            registry=self._registry,
        )

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Says how to find out how many videos wait."""
        self._queued.set_function(length)

    def begin_request(self) -> None:
        """Counts a request that has arrived; `observe_request` follows."""
        self._in_flight.inc()

    def observe_request(self, route: str, status: int, seconds: float, code: str | None = None) -> None:
        """Counts a request that was answered, or refused with an error of some code."""
        self._in_flight.dec()
        self._requests.labels(self._replica, route, status).inc()
        self._request_seconds.labels(self._replica, route).observe(seconds)
        if code is not None:
            self._refusals.labels(self._replica, code).inc()

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Counts the time of one stage of a request."""
        self._stages[stage].observe(seconds)

    def observe_batch(self, version: str, size: int, seconds: float) -> None:
        """Counts a batch that went through a model."""
        self._batch_size.observe(size)
        self._videos.inc(size)
        self.statistics.observe_batch(version, size, seconds)

    def set_models(self, models: Sequence[tuple[str, str]]) -> None:
        """Says which models answer, as pairs of name and version."""
        self.statistics.keep(version for _, version in models)
        self._models.clear()
        for name, version in models:
            self._models.labels(self._replica, name, version).set(1)

    def text(self) -> str:
        """Returns all numbers in Prometheus' text form."""
        return generate_latest(self._registry).decode()
