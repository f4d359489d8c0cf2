"""The metrics of a replica for Prometheus, each with the replica's id as a label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from serve.operations.statistics import Statistics

M = TypeVar("M", bound=MetricWrapperBase)

STAGES = ("body", "decode", "queue", "model", "encode")  # of a request, in their order

# Seconds, up to the default deadline of a request.
_LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def merge_expositions(texts: Iterable[str]) -> str:
    """Merges texts of `Metrics.text`: each metric family once, with the samples of all."""
    # prometheus_client's multiprocess mode merges files in a folder, which replicas on several machines do not share.
    families: dict[str, list[str]] = {}
    samples: list[str] = []
    for line in (line for text in texts for line in text.splitlines()):
        if line.startswith("# HELP "):
            # Without the times when series were made, which would double their number.
            is_wanted = not line.split(" ", 3)[2].endswith("_created")
            samples = families.setdefault(line, []) if is_wanted else []
        elif not line.startswith("# TYPE ") or not samples:
            samples.append(line)
    lines = [line for help_line, lines in families.items() for line in (help_line, *lines)]
    return "".join(f"{line}\n" for line in lines)


class Metrics:
    """The metrics of the replica with this id, and the statistics of its models."""

    def __init__(self, replica: str) -> None:
        self.statistics = Statistics()
        self._replica = replica
        self._registry = CollectorRegistry()

        def new(kind: type[M], name: str, about: str, *labels: str, **options: Any) -> M:
            return kind(f"yt8m_{name}", about, ("replica", *labels), registry=self._registry, **options)

        self._requests = new(Counter, "requests", "Requests by route and status", "route", "status")
        about = "From the first byte of a request to the last of its answer"
        self._request_seconds = new(Histogram, "request_seconds", about, "route", buckets=_LATENCY_BUCKETS)
        about = f"Time of a request by stage: {', '.join(STAGES)}"
        stage_seconds = new(Histogram, "stage_seconds", about, "stage", buckets=_LATENCY_BUCKETS)
        # Children are looked up once: `labels` takes a lock, and each request has several stages.
        self._stages = {stage: stage_seconds.labels(replica, stage) for stage in STAGES}
        self._batch_size = new(Histogram, "batch_size", "Videos a batch", buckets=_SIZE_BUCKETS).labels(replica)
        self._videos = new(Counter, "videos", "Videos that were answered").labels(replica)
        self._models = new(Gauge, "model", "1 for each model that answers", "model", "version")
        self._in_flight = new(Gauge, "requests_in_flight", "Requests that are being answered").labels(replica)
        self._queued = new(Gauge, "queued_videos", "Videos that wait for the model").labels(replica)
        about = "Requests that were refused, by the code of their error"
        self._refusals = new(Counter, "refusals", about, "code")

    def watch_queue(self, length: Callable[[], int]) -> None:
        self._queued.set_function(length)

    def begin_request(self) -> None:
        """Counts a request that has arrived; `observe_request` follows."""
        self._in_flight.inc()

    def observe_request(self, route: str, status: int, seconds: float, code: str | None = None) -> None:
        """Counts an answered request; `code` is that of its error, if it was refused."""
        self._in_flight.dec()
        self._requests.labels(self._replica, route, status).inc()
        self._request_seconds.labels(self._replica, route).observe(seconds)
        if code is not None:
            self._refusals.labels(self._replica, code).inc()

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Counts the time of one of STAGES of a request."""
        self._stages[stage].observe(seconds)

    def observe_batch(self, version: str, size: int, seconds: float) -> None:
        self._batch_size.observe(size)
        self._videos.inc(size)
        self.statistics.observe_batch(version, size, seconds)

    def set_models(self, models: Sequence[tuple[str, str]]) -> None:
        self.statistics.keep(version for _, version in models)
        self._models.clear()
        for name, version in models:
            self._models.labels(self._replica, name, version).set(1)

    def text(self) -> str:
        return generate_latest(self._registry).decode()
