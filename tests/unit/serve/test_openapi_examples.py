"""The examples of the OpenAPI document are what the service takes and gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.api import build_api
from serve.openapi_examples import ANSWERS, MESSAGES, REQUESTS
from serve.schemas import ErrorResponse, PredictRequest, PredictResponse
from tests.local_service import LocalService
from yt8m_ray.data.vocabulary import Vocabulary
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.schema import FRAME_FEATURES, NUM_CLASSES_2018


@pytest.fixture
def client(save_tiny_checkpoint: Callable[..., Path]) -> TestClient:
    data = {"features": FRAME_FEATURES, "num_classes": NUM_CLASSES_2018}
    return TestClient(build_api(LocalService(Predictor.from_path(save_tiny_checkpoint(data=data)))))


def test_a_model_of_the_published_features_takes_every_request(client: TestClient) -> None:
    for example in REQUESTS.values():
        PredictRequest.model_validate_json(json.dumps(example["value"]))
        assert client.post("/v1/predict", json=example["value"]).status_code == 200


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_has_the_type_and_the_names_of_answers(name: str) -> None:
    answer = PredictResponse.model_validate(ANSWERS[name]["value"])
    vocabulary = Vocabulary.load()
    for label in answer.predictions[0].labels:
        assert label.name == vocabulary.name(label.class_id)
        assert label.knowledge_graph_id == vocabulary.knowledge_graph_id(label.class_id)
        assert label.vertical == vocabulary.verticals(label.class_id)[0]


def test_every_body_of_a_prediction_has_an_example(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["examples"].keys() == REQUESTS.keys()
    responses: dict[str, Any] = operation["responses"]
    assert responses["200"]["content"]["application/json"]["examples"].keys() == ANSWERS.keys()
    errors = {status: response for status, response in responses.items() if status != "200"}
    assert errors.keys() == set(map(str, MESSAGES))
    for response in errors.values():
        ErrorResponse.model_validate(response["content"]["application/json"]["example"])


def test_the_sentence_about_missing_features_is_the_one_that_is_said(client: TestClient) -> None:
    video = {"rgb": REQUESTS["one frame"]["value"]["videos"][0]["rgb"]}
    assert client.post("/v1/predict", json={"videos": [video]}).json()["error"]["message"] == MESSAGES[422]
    query = client.post("/v1/predict?version=0123abcd", content=b"").json()["error"]["message"]
    assert query.partition(";")[0] == MESSAGES[404].partition(";")[0]


def test_no_operation_promises_an_error_of_another_shape(client: TestClient) -> None:
    assert "HTTPValidationError" not in client.get("/openapi.json").text


def test_names_can_be_left_out_as_the_document_says(client: TestClient) -> None:
    video = next(iter(REQUESTS.values()))["value"]
    answer = client.post("/v1/predict?names=false", json=video).json()
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Label"]
    for label in answer["predictions"][0]["labels"]:
        assert label.keys() == {"class_id", "score"} == set(schema["required"])
