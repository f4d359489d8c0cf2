"""The numbers of replicas, read back by Prometheus' own parser."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from serve.http.api import build_api
from serve.operations.metrics import Metrics, merge_expositions
from tests.support.local_service import LocalService
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.inference.predictor import Predictor

RECORD = encode_sequence_example({}, {"rgb": np.ones((4, 8), np.uint8), "audio": np.ones((4, 4), np.uint8)})


def parse(text: str) -> dict[str, Metric]:
    """Returns the families by name, each of which stands once."""
    families = list(text_string_to_metric_families(text))
    counts = collections.Counter(family.name for family in families)
    assert max(counts.values()) == 1, counts
    kinds = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    return {family.name: family for family in families}


def value(families: dict[str, Metric], name: str, sample: str | None = None, **labels: str) -> float:
    (found,) = [
        each.value
        for each in families[name].samples
        if each.name == (sample or name) and labels.items() <= each.labels.items()
    ]
    return found


def busy(replica: str, requests: int) -> Metrics:
    metrics = Metrics(replica)
    for _ in range(requests):
        metrics.begin_request()
        metrics.observe_request("/v1/predict", 200, 0.01)
    metrics.set_models([('a "quoted"\nname', "abc")])
    metrics.observe_batch("abc", 4, 0.01)
    return metrics


def test_the_numbers_of_several_replicas_are_one_exposition() -> None:
    text = merge_expositions(busy(name, number).text() for number, name in enumerate(("r0", "r1", "r2"), 1))
    families = parse(text)
    for number, name in enumerate(("r0", "r1", "r2"), 1):
        labels = {"replica": name, "route": "/v1/predict", "status": "200"}
        assert value(families, "yt8m_requests", "yt8m_requests_total", **labels) == number
    assert value(families, "yt8m_model", replica="r2", model='a "quoted"\nname', version="abc") == 1
    assert all(family.type != "unknown" and family.documentation for family in families.values())
    assert not any(name.endswith("_created") for name in families)


def test_the_samples_of_one_replica_are_all_there_after_merging() -> None:
    def samples(text: str) -> set[tuple[str, str, float]]:
        families = text_string_to_metric_families(text)
        return {(each.name, str(sorted(each.labels.items())), each.value) for f in families for each in f.samples}

    text = busy("r0", 3).text()
    expected = {each for each in samples(text) if not each[0].endswith("_created")}
    assert samples(merge_expositions([text])) == expected and samples(merge_expositions([text, text])) == expected


def test_nothing_merges_to_nothing() -> None:
    assert merge_expositions([]) == merge_expositions(["", ""]) == ""


def test_a_request_is_counted_with_its_stages_its_batch_and_its_video(
    save_tiny_checkpoint: Callable[..., Path],
) -> None:
    service = LocalService(Predictor.from_path(save_tiny_checkpoint()))
    service.metrics.set_models([("model", service.host.current.version)])
    with TestClient(build_api(service)) as client:
        for _ in range(3):
            client.post("/v1/predict", content=RECORD, headers={"content-type": "application/octet-stream"})
        client.post("/v1/predict", content=b"", headers={"content-type": "application/octet-stream"})
        client.get("/nowhere/1")
        client.get("/nowhere/2")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = parse(response.text)
    for stage in ("decode", "queue", "model", "encode"):
        assert value(families, "yt8m_stage_seconds", "yt8m_stage_seconds_count", stage=stage) == 3
    assert value(families, "yt8m_stage_seconds", "yt8m_stage_seconds_count", stage="body") == 4
    assert value(families, "yt8m_videos", "yt8m_videos_total") == 3
    assert value(families, "yt8m_batch_size", "yt8m_batch_size_sum") == 3
    assert value(families, "yt8m_requests", "yt8m_requests_total", route="none", status="404") == 2
    assert value(families, "yt8m_refusals", "yt8m_refusals_total", code="malformed_request") == 1
    assert value(families, "yt8m_refusals", "yt8m_refusals_total", code="not_found") == 2
    assert value(families, "yt8m_requests_in_flight") == 1  # the one that asks
    assert value(families, "yt8m_queued_videos") == 0
    assert value(families, "yt8m_model", version=service.host.current.version) == 1


def test_the_length_of_the_queue_is_read_when_it_is_asked_for() -> None:
    metrics = Metrics("r")
    lengths = iter([3, 5])
    metrics.watch_queue(lambda: next(lengths))
    assert [value(parse(metrics.text()), "yt8m_queued_videos") for _ in range(2)] == [3, 5]


@pytest.mark.parametrize("versions", [["a"], ["a", "b"], []])
def test_only_the_models_that_answer_are_told(versions: list[str]) -> None:
    metrics = Metrics("r")
    metrics.set_models([("old", "v0")])
    metrics.set_models([("new", version) for version in versions])
    samples = parse(metrics.text())["yt8m_model"].samples if versions else []
    assert [sample.labels["version"] for sample in samples] == versions
    assert 'version="v0"' not in metrics.text()
