"""The index of models and their statistics, as a public client of Triton asks for them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from fastapi.testclient import TestClient
from tritonclient.utils import InferenceServerException

from serve.http.api import build_api
from serve.model.hosted_model import HostedModel
from serve.operations.statistics import ModelStatistics, merge_statistics
from serve.settings import Limits, ServeArgs
from tests.support.live_server import serving
from tests.support.local_service import LocalService
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.inference.predictor import Predictor

FRAMES = {"rgb": np.ones((4, 8), np.uint8), "audio": np.ones((4, 4), np.uint8)}
RECORD = encode_sequence_example({"id": [b"abcd"]}, FRAMES)
DURATIONS = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}


@pytest.fixture
def service(save_tiny_checkpoint: Callable[..., Path]) -> LocalService:
    return LocalService(Predictor.from_path(save_tiny_checkpoint()), Limits(max_batch_size=4))


@pytest.fixture
def client(service: LocalService) -> Iterator[TestClient]:
    with TestClient(build_api(service)) as client:
        yield client


@pytest.mark.parametrize("content", [b"", b'{"ready": true}', b'\xef\xbb\xbf {"ready": true}', b'{"ready": null}'])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bytes], ids=["gzip", "deflate", "plain"])
def test_the_index_is_asked_for_as_bodies_are_sent_elsewhere(
    client: TestClient, content: bytes, pack: Callable[[bytes], bytes]
) -> None:
    encoding = {gzip.compress: "gzip", zlib.compress: "deflate"}.get(pack, "identity")
    response = client.post("/v2/repository/index", content=pack(content), headers={"content-encoding": encoding})
    assert response.status_code == 200 and len(response.json()) == 1, response.text


def stats(client: TestClient, path: str = "/v2/models/yt8m/stats") -> dict[str, Any]:
    (found,) = client.get(path).json()["model_stats"]
    return dict(found)


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {name: each["count"] for name, each in found["inference_stats"].items() if each["count"]}


def test_a_public_client_gets_the_index_and_the_statistics(service: LocalService) -> None:
    inputs = []
    for name, values in FRAMES.items():
        tensor = tritonclient.http.InferInput(name, [3, *values.shape], "UINT8")
        tensor.set_data_from_numpy(np.stack([values] * 3))
        inputs.append(tensor)
    version = service.host.current.version
    with serving(service) as port:
        triton = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
        index = triton.get_model_repository_index()
        triton.infer("yt8m", inputs)
        answers = [triton.get_inference_statistics(*each) for each in ((), ("yt8m",), ("yt8m", version))]
        with pytest.raises(InferenceServerException, match="is not served"):
            triton.get_inference_statistics("other")
        with pytest.raises(InferenceServerException, match="is not served"):
            triton.get_inference_statistics("yt8m", "0")
        triton.close()
    assert index == [{"name": "yt8m", "version": version, "state": "READY", "reason": ""}]
    assert answers[0] == answers[1] == answers[2]
    (found,) = answers[0]["model_stats"]
    assert (found["name"], found["version"], found["inference_count"]) == ("yt8m", version, 3)
    assert found["execution_count"] == sum(batch["compute_infer"]["count"] for batch in found["batch_stats"])
    assert found["inference_stats"].keys() == DURATIONS
    assert counts(found) == dict.fromkeys(DURATIONS - {"fail", "cache_hit", "cache_miss"}, 1)


def test_requests_of_every_kind_are_counted(client: TestClient) -> None:
    assert counts(stats(client)) == {} and stats(client)["last_inference"] == 0
    client.post("/v1/predict", content=RECORD)
    client.post("/v1/models/yt8m:predict", json={"instances": [{n: x.tolist() for n, x in FRAMES.items()}]})
    shard = frame_record(RECORD) * 5
    client.post("/v1/predict", content=shard, headers={"content-type": "application/x-tfrecord"})
    found = stats(client)
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert counts(found) == {"success": 3, **dict.fromkeys(stages, 2)}
    assert found["inference_count"] == 7
    assert sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in found["batch_stats"]) == 7
    assert found["last_inference"] > 1.7e12
    durations = found["inference_stats"]
    assert 0 < durations["compute_infer"]["ns"] < durations["success"]["ns"]


def test_refusals_count_as_failures_of_the_model_that_was_asked(client: TestClient, service: LocalService) -> None:
    client.post("/v1/predict", content=b"no record")
    client.post("/v1/predict?version=0", content=RECORD)  # of no model
    client.get("/healthz")
    assert counts(stats(client)) == {"fail": 1}


def test_every_version_has_its_own_and_one_that_is_gone_has_none(
    client: TestClient, service: LocalService, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    first = service.host.current
    other = HostedModel("other", Predictor.from_path(save_tiny_checkpoint("other", seed=1)))
    service.host.canary = other
    client.post(f"/v1/predict?version={other.version}", content=RECORD)
    both = client.get("/v2/models/stats").json()["model_stats"]
    assert [(each["version"], each["inference_count"]) for each in both] == [(first.version, 0), (other.version, 1)]
    assert stats(client, f"/v2/models/yt8m/versions/{other.version}/stats")["inference_count"] == 1
    assert [entry["version"] for entry in client.get("/v2/repository/index").json()] == [first.version, other.version]
    service.host.canary = None
    service.metrics.set_models([("first", first.version)])
    assert stats(client)["version"] == first.version
    assert other.version not in service.metrics.statistics.snapshot()


def test_the_numbers_of_replicas_are_added() -> None:
    replicas = []
    for number in (1, 2):
        statistics = ModelStatistics()
        for _ in range(number):
            statistics.observe("success", 0.5)
            statistics.batches[4] += 1
        statistics.last_inference = number
        replicas.append({"v": statistics})
    merged = merge_statistics([*replicas, {"w": ModelStatistics()}])
    described = merged["v"].described()
    assert merged.keys() == {"v", "w"}
    assert described["inference_stats"]["success"] == {"count": 3, "ns": 1_500_000_000}
    assert (described["inference_count"], described["execution_count"], described["last_inference"]) == (12, 3, 2)
    assert replicas[0]["v"].counts["success"] == 1  # the merge is of its own


@pytest.mark.parametrize(("body", "expected"), [(b"", 1), (b"{}", 1), (b'{"ready": true}', 0), (b'{"ready": null}', 1)])
def test_models_that_do_not_answer_can_be_left_out_of_the_index(
    client: TestClient, service: LocalService, body: bytes, expected: int
) -> None:
    service.ready = False
    index = client.post("/v2/repository/index", content=body).json()
    assert [entry["state"] for entry in index] == ["UNAVAILABLE"] * expected


@pytest.mark.parametrize("body", [b"[]", b"x", b'{"ready": 1}', b" " * 5000])
def test_a_request_for_the_index_that_means_nothing_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/v2/repository/index", content=body)
    assert response.status_code in (400, 413) and response.json().keys() == {"error"}


def test_both_ask_for_a_token_where_there_are_some(save_tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    args = ServeArgs(tokens_file=str(tmp_path / "tokens"))
    client = TestClient(build_api(LocalService(Predictor.from_path(save_tiny_checkpoint()), args=args)))
    for path in ("/v2/repository/index", "/v2/models/stats"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
