"""Statistics of each model since its replicas started, for the statistics extension of the Open Inference Protocol.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Stages of a request, by their names here and in the protocol.
_STAGES = {"queue": "queue", "decode": "compute_input", "model": "compute_infer", "encode": "compute_output"}
_DURATIONS = ("success", "fail", *_STAGES.values(), "cache_hit", "cache_miss")


@dataclass
class ModelStatistics:
    """Of one model."""

    last_inference: int = 0  # when its last batch ended, in milliseconds since 1970
    # Requests and the sum of their time, for each duration of the protocol.
    counts: Counter[str] = field(default_factory=Counter)
    nanoseconds: Counter[str] = field(default_factory=Counter)
    # Batches and the sum of their time, by size.
    batches: Counter[int] = field(default_factory=Counter)
    batch_nanoseconds: Counter[int] = field(default_factory=Counter)

    def observe(self, duration: str, seconds: float) -> None:
        self.counts[duration] += 1
        self.nanoseconds[duration] += int(seconds * 1e9)

    def add(self, other: ModelStatistics) -> None:
        self.last_inference = max(self.last_inference, other.last_inference)
        for name in ("counts", "nanoseconds", "batches", "batch_nanoseconds"):
            getattr(self, name).update(getattr(other, name))

    def described(self) -> dict[str, Any]:
        """Returns a $model_stat of the protocol, without name and version."""
        sizes = sorted(self.batches)
        # Decoding and encoding are measured for requests alone.
        unmeasured = {"count": 0, "ns": 0}
        return {
            "last_inference": self.last_inference,
            "inference_count": sum(size * self.batches[size] for size in sizes),
            "execution_count": self.batches.total(),
            "inference_stats": {
                name: {"count": self.counts[name], "ns": self.nanoseconds[name]} for name in _DURATIONS
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": unmeasured,
                    "compute_infer": {"count": self.batches[size], "ns": self.batch_nanoseconds[size]},
                    "compute_output": unmeasured,
                }
                for size in sizes
            ],
        }


class Statistics:
    """The statistics of a replica, by the versions of its models."""

    def __init__(self) -> None:
        self._models: defaultdict[str, ModelStatistics] = defaultdict(ModelStatistics)

    def observe_request(
        self, version: str, seconds: float, stages: Iterable[tuple[str, float]], *, is_success: bool
    ) -> None:
        """Counts a request by the version of its model; `stages` are pairs of a stage and its seconds."""
        statistics = self._models[version]
        if not is_success:
            statistics.observe("fail", seconds)
            return
        statistics.observe("success", seconds)
        # A stage occurs once for each video, all of which wait at the same time: the longest counts.
        longest: dict[str, float] = {}
        for stage, stage_seconds in stages:
            longest[stage] = max(stage_seconds, longest.get(stage, 0.0))
        for stage, duration in _STAGES.items():
            if stage in longest:
                statistics.observe(duration, longest[stage])

    def observe_batch(self, version: str, size: int, seconds: float) -> None:
        statistics = self._models[version]
        statistics.last_inference = int(time.time() * 1e3)
        statistics.batches[size] += 1
        statistics.batch_nanoseconds[size] += int(seconds * 1e9)

    def keep(self, versions: Iterable[str]) -> None:
        """Drops the models that no longer answer."""
        self._models = defaultdict(ModelStatistics, {version: self._models[version] for version in versions})

    def snapshot(self) -> dict[str, ModelStatistics]:
        return dict(self._models)


def merge_statistics(replicas: Iterable[Mapping[str, ModelStatistics]]) -> dict[str, ModelStatistics]:
    merged: defaultdict[str, ModelStatistics] = defaultdict(ModelStatistics)
    for models in replicas:
        for version, statistics in models.items():
            merged[version].add(statistics)
    return dict(merged)
