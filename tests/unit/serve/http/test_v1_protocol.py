"""The V1 protocol of KServe and TensorFlow Serving: `instances` in, `predictions` out."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.model.hosted_model import HostedModel
from serve.settings import Limits, ServeArgs
from tests.support.local_service import LocalService
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.inference.mlflow_model.video_table import ANSWER_COLUMNS, answer_rows
from yt8m_ray.inference.predictor import Predictor

RGB = np.arange(32, dtype=np.uint8).reshape(4, 8)
AUDIO = np.arange(16, dtype=np.uint8).reshape(4, 4)
MEANS = np.linspace(-1, 1, 8).astype(np.float32)
PREDICT = "/v1/models/yt8m:predict"
VIDEO = {"rgb": RGB.tolist(), "audio": AUDIO.tolist()}


def packed(frames: np.ndarray) -> dict[str, str]:
    return {"b64": base64.b64encode(frames.tobytes()).decode()}


@pytest.fixture
def service_of(save_tiny_checkpoint: Callable[..., Path]) -> Callable[..., LocalService]:
    def make(**features: int) -> LocalService:
        predictor = Predictor.from_path(save_tiny_checkpoint(data={"features": features}))
        return LocalService(predictor, Limits(max_videos=3))

    return make


@pytest.fixture
def service(service_of: Callable[..., LocalService]) -> LocalService:
    return service_of(rgb=8, audio=4)


@pytest.fixture
def client(service: LocalService) -> TestClient:
    return TestClient(build_api(service))


def rows(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.json().keys() == {"predictions"}
    return list(response.json()["predictions"])


def refusal(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    return str(response.json()["error"])


def test_predictions_are_the_rows_of_the_pyfunc_in_the_order_of_the_instances(
    client: TestClient, service: LocalService
) -> None:
    videos = {"a": slice(0, 4), "b": slice(1, 2), "": slice(2, 4)}
    instances = [
        {"rgb": RGB[part].tolist(), "audio": packed(AUDIO[part]), **({"video_id": name} if name else {})}
        for name, part in videos.items()
    ]
    found = rows(client.post(PREDICT, json={"instances": instances, "parameters": {"top_k": 4}}))
    predictor = service.host.current.predictor
    clips = [
        VideoRow(name, np.concatenate([RGB[part], AUDIO[part]], axis=1), np.empty(0, np.int32))
        for name, part in videos.items()
    ]
    expected = list(answer_rows(list(videos), predictor.predict(clips, 4), predictor.vocabulary))
    for each, row in zip(found, expected, strict=True):
        assert list(each) == list(ANSWER_COLUMNS)
        assert each["scores"] == pytest.approx(row["scores"], abs=1e-6)
        assert {**each, "scores": None} == {**row, "scores": None}


@pytest.mark.parametrize("form", [RGB.tolist(), RGB.reshape(-1).tolist(), packed(RGB), packed(RGB)["b64"]])
def test_frames_have_the_forms_of_both_protocols(client: TestClient, form: Any) -> None:
    expected = rows(client.post(PREDICT, json={"instances": [VIDEO]}))
    assert rows(client.post(PREDICT, json={"instances": [{**VIDEO, "rgb": form}]})) == expected


@pytest.mark.parametrize("form", [RGB.tolist(), RGB.reshape(-1).tolist(), packed(RGB), packed(RGB)["b64"]])
def test_the_values_of_a_model_with_one_feature_may_stand_for_the_video(
    service_of: Callable[..., LocalService], form: Any
) -> None:
    client = TestClient(build_api(service_of(embedding=8)))
    expected = rows(client.post(PREDICT, json={"instances": [{"embedding": RGB.tolist()}] * 2}))
    assert rows(client.post(PREDICT, json={"instances": [form, form]})) == expected


def test_means_may_stand_for_the_video_too(service_of: Callable[..., LocalService]) -> None:
    client = TestClient(build_api(service_of(mean_embedding=8)))
    expected = rows(client.post(PREDICT, json={"instances": [{"mean_embedding": MEANS.tolist()}]}))
    assert rows(client.post(PREDICT, json={"instances": [MEANS.tolist()]})) == expected
    whole = [1, 0, -1, 0, 1, 0, -1, 0]
    assert rows(client.post(PREDICT, json={"instances": [whole]})) == rows(
        client.post(PREDICT, json={"instances": [[float(value) for value in whole]]})
    )


@pytest.mark.parametrize(
    ("fields", "query", "num_classes"),
    [({}, "", 20), ({}, "?top_k=3", 3), ({"parameters": {"top_k": 2}}, "?top_k=3", 2), ({"parameters": None}, "", 20)],
)
def test_the_number_of_classes_is_a_parameter_of_body_or_query(
    client: TestClient, fields: dict[str, Any], query: str, num_classes: int
) -> None:
    (row,) = rows(client.post(PREDICT + query, json={"instances": [VIDEO], **fields}))
    assert len(row["class_ids"]) == len(row["scores"]) == len(row["names"]) == num_classes


@pytest.mark.parametrize("name", ["serving_default", "", None])
def test_the_default_signature_may_be_named(client: TestClient, name: str | None) -> None:
    rows(client.post(PREDICT, json={"signature_name": name, "instances": [VIDEO], "key of another server": 1}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "instances: Field required"),
        ({"inputs": {"rgb": []}}, "instances: Field required"),
        ({"instances": []}, "instances: List should have at least 1 item"),
        ({"instances": None}, "instances: Input should be a valid array"),
        ([VIDEO], "body: "),
        ({"instances": [VIDEO], "signature_name": "classify"}, "expected serving_default, found 'classify'"),
        ({"instances": [VIDEO], "parameters": {"top_k": "3"}}, "parameters.top_k: expected a whole number"),
        ({"instances": [VIDEO], "parameters": {"top_k": 31}}, "top_k: expected 1 to 30, found 31"),
        ({"instances": [VIDEO] * 4}, "instances: at most 3 a request, found 4"),
        ({"instances": [VIDEO, {}]}, "instances[1]: this model needs the frames rgb; found none"),
        ({"instances": [{**VIDEO, "video": 1}]}, "instances[0].video: unknown key; valid: video_id, rgb, audio"),
        (
            {"instances": [{**VIDEO, "rgb": [256]}]},
            "instances[0].rgb[0]: expected a whole number from 0",
        ),
        ({"instances": [{**VIDEO, "rgb": {"b64": "?"}}]}, "instances[0].rgb: not base64"),
        ({"instances": [{**VIDEO, "rgb": {"b64": 3}}]}, "instances[0].rgb: "),
        ({"instances": [{**VIDEO, "rgb": {"x": 3}}]}, "instances[0].rgb: "),
        ({"instances": [RGB.tolist()]}, "instances[0]: "),
        ({"instances": [3]}, "instances[0]: "),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(client: TestClient, body: Any, message: str) -> None:
    assert message in refusal(client.post(PREDICT, json=body))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_what_is_not_json_is_malformed(client: TestClient, content: bytes) -> None:
    assert "not JSON" in refusal(client.post(PREDICT, content=content))


def test_openapi_says_how_many_instances_there_may_be(client: TestClient, service: LocalService) -> None:
    for most in (3, 4):
        service.limits = Limits(max_videos=most)
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["InstancesRequest"]["properties"]["instances"]["maxItems"] == most


def test_numbers_that_are_not_finite_are_refused(service_of: Callable[..., LocalService]) -> None:
    client = TestClient(build_api(service_of(mean_embedding=8)))
    for number in ("NaN", "Infinity", "1e999", "1e39"):
        body = f'{{"instances": [[0, 0, 0, {number}, 0, 0, 0, 0]]}}'
        message = refusal(client.post(PREDICT, content=body.encode()))
        assert "mean_embedding: value 3 " in message and "not a finite number" in message


def test_a_version_is_answered_by_itself_or_refused(
    client: TestClient, service: LocalService, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    other = HostedModel("other", Predictor.from_path(save_tiny_checkpoint("other", seed=1)))
    service.host.canary = other
    first = f"/v1/models/yt8m/versions/{service.host.current.version}:predict"
    second = f"/v1/models/yt8m/versions/{other.version}:predict"
    answers = [rows(client.post(path, json={"instances": [VIDEO]})) for path in (first, second)]
    assert answers[0] != answers[1]
    assert "is not served" in refusal(client.post("/v1/models/yt8m/versions/1:predict", json={}), 404)
    assert "valid: yt8m" in refusal(client.post("/v1/models/other:predict", json={}), 404)


def test_the_status_is_that_of_both_protocols(client: TestClient, service: LocalService) -> None:
    version = service.host.current.version
    known = {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    expected = {"name": "yt8m", "ready": True, "model_version_status": [known]}
    for path in ("/v1/models/yt8m", f"/v1/models/yt8m/versions/{version}"):
        assert client.get(path).json() == expected
        assert client.head(path).status_code == 200
    assert client.get("/v1/models").json() == {"models": ["yt8m"]}
    assert "is not served" in refusal(client.get("/v1/models/yt8m/versions/1"), 404)
    service.ready = False
    response = client.get("/v1/models/yt8m")
    assert (response.status_code, response.json()["ready"]) == (503, False)
    assert response.json()["model_version_status"][0]["state"] == "LOADING"


def test_a_wrong_method_is_told_the_right_one(client: TestClient) -> None:
    response = client.get(PREDICT)
    assert refusal(response, 405) == f"GET {PREDICT}: expected POST here" and response.headers["allow"] == "POST"
    response = client.post("/v1/models/yt8m", json={})
    assert "expected GET or HEAD here" in refusal(response, 405)
    assert "nothing here" in refusal(client.post("/v1/models/yt8m:explain", json={}), 404)


def test_predictions_ask_for_a_token_and_probes_do_not(
    save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    args = ServeArgs(tokens_file=str(tmp_path / "tokens"))
    client = TestClient(build_api(LocalService(Predictor.from_path(save_tiny_checkpoint()), args=args)))
    assert "token" in refusal(client.post(PREDICT, json={"instances": [VIDEO]}), 401)
    rows(client.post(PREDICT, json={"instances": [VIDEO]}, headers={"authorization": "Bearer secret"}))
    assert client.get("/v1/models/yt8m").status_code == 200
