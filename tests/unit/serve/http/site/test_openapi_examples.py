"""The OpenAPI document and its examples are what the service takes and gives, by the model's own names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.http.schemas import ErrorResponse, PredictResponse
from serve.model.hosted_model import HostedModel
from tests.support.local_service import LocalService
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.schema import FRAME_FEATURES, NUM_CLASSES_2018, VIDEO_FEATURES

MODELS: dict[str, dict[str, Any]] = {
    "published": {"features": FRAME_FEATURES, "num_classes": NUM_CLASSES_2018},
    "published means": {"features": VIDEO_FEATURES, "num_classes": NUM_CLASSES_2018},
    "own names": {"features": {"audio_embedding": 16}, "num_classes": 30},
    "own means": {"features": {"mean_audio_embedding": 16}, "num_classes": 2},
    "odd names": {"features": {"RGB/feature/floats": 4, "_x": 2, "model_dump": 1}, "num_classes": 30},
}


@pytest.fixture(params=MODELS)
def service(request: pytest.FixtureRequest, save_tiny_checkpoint: Callable[..., Path]) -> LocalService:
    return LocalService(Predictor.from_path(save_tiny_checkpoint(data=MODELS[request.param])))


@pytest.fixture
def client(service: LocalService) -> TestClient:
    return TestClient(build_api(service))


def prediction_of(client: TestClient) -> dict[str, Any]:
    operation: dict[str, Any] = client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]
    return operation


def requests_of(client: TestClient) -> dict[str, Any]:
    examples: dict[str, Any] = prediction_of(client)["requestBody"]["content"]["application/json"]["examples"]
    return examples


def test_the_model_takes_every_request_of_the_document(client: TestClient) -> None:
    examples = requests_of(client)
    assert examples
    for example in examples.values():
        response = client.post("/v1/predict", json=example["value"])
        assert response.status_code == 200, response.text


def test_the_model_takes_the_requests_of_the_protocols_of_others(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v2/models/{name}/infer", "/v1/models/{name}:predict"):
        example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        response = client.post(path.format(name="yt8m"), json=example)
        assert response.status_code == 200, response.text


def test_the_document_names_the_features_of_the_model_and_no_others(client: TestClient, service: LocalService) -> None:
    spec = service.host.current.predictor.spec
    video = client.get("/openapi.json").json()["components"]["schemas"]["Video"]
    frames = {name.removeprefix("mean_") for name in spec.sizes}
    assert video["properties"].keys() == {"video_id", *spec.sizes, *frames}
    for name, size in spec.sizes.items():
        assert str(size) in video["properties"][name]["description"]


def test_another_model_is_described_once_it_answers(
    client: TestClient, service: LocalService, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    before = client.get("/openapi.json").json()
    other = Predictor.from_path(save_tiny_checkpoint("other", data={"features": {"other_name": 3}}))
    service.host.current = HostedModel("other", other)
    after = client.get("/openapi.json").json()
    assert "other_name" not in json.dumps(before)
    assert after["components"]["schemas"]["Video"]["properties"].keys() == {"video_id", "other_name"}


def test_an_answer_has_the_type_and_the_names_of_answers(client: TestClient, service: LocalService) -> None:
    vocabulary = service.host.current.predictor.vocabulary
    examples = prediction_of(client)["responses"]["200"]["content"]["application/json"]["examples"]
    assert examples.keys() == {"best", "timeline"}
    for example in examples.values():
        answer = PredictResponse.model_validate(example["value"])
        for label in answer.predictions[0].labels:
            assert label.name == vocabulary.name(label.class_id)
            assert label.knowledge_graph_id == vocabulary.knowledge_graph_id(label.class_id)
            assert label.vertical == next(iter(vocabulary.verticals(label.class_id)), None)


def test_every_error_of_a_prediction_has_an_example(client: TestClient) -> None:
    for status, response in prediction_of(client)["responses"].items():
        if status != "200":
            ErrorResponse.model_validate(response["content"]["application/json"]["example"])


def test_the_sentence_about_missing_features_is_the_one_that_is_said(client: TestClient, service: LocalService) -> None:
    names = list(service.host.current.predictor.spec.sizes)
    (value, *_) = (example["value"] for example in requests_of(client).values())
    video = {name: value["videos"][0][name] for name in names[:-1]}
    responses = prediction_of(client)["responses"]
    told = responses["422"]["content"]["application/json"]["example"]["error"]["message"]
    assert client.post("/v1/predict", json={"videos": [video]}).json()["error"]["message"] == told
    query = client.post("/v1/predict?version=0123abcd", content=b"").json()["error"]["message"]
    assert query == responses["404"]["content"]["application/json"]["example"]["error"]["message"]


def test_every_reference_of_the_document_leads_somewhere(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for reference in re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]
    assert "$defs" not in json.dumps(document)


def test_no_operation_promises_an_error_of_another_shape(client: TestClient) -> None:
    assert "HTTPValidationError" not in client.get("/openapi.json").text


def test_names_can_be_left_out_as_the_document_says(client: TestClient) -> None:
    video = next(iter(requests_of(client).values()))["value"]
    answer = client.post("/v1/predict?names=false", json=video).json()
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Label"]
    for label in answer["predictions"][0]["labels"]:
        assert label.keys() == {"class_id", "score"} == set(schema["required"])
