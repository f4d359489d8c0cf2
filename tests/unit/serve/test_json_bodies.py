"""JSON bodies: the names are those of the model, and a list of videos is a body too."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.settings import Limits
from tests.support.local_service import LocalService
from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.inference.predictor import Predictor

FRAMES = np.arange(64, dtype=np.uint8).reshape(4, 16)
MEANS = np.linspace(-1, 1, 16).astype(np.float32)
BINARY = {"content-type": "application/octet-stream"}
OWN_NAMES = ("audio_embedding", "RGB/feature/floats", "_x", "model_dump", "flat")


@pytest.fixture
def client_of(save_tiny_checkpoint: Callable[..., Path]) -> Callable[..., TestClient]:
    def make(**features: int) -> TestClient:
        predictor = Predictor.from_path(save_tiny_checkpoint(data={"features": features}))
        return TestClient(build_api(LocalService(predictor, Limits(max_videos=3))))

    return make


def labels(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"][0]["labels"]
    return found


def refusal(response: httpx.Response, status: int = 422) -> str:
    assert response.status_code == status, response.text
    message: str = response.json()["error"]["message"]
    return message


@pytest.mark.parametrize("name", OWN_NAMES)
def test_frames_under_a_name_of_its_own_are_answered_as_in_protobuf(
    client_of: Callable[..., TestClient], name: str
) -> None:
    client = client_of(**{name: 16})
    record = encode_sequence_example({"id": [b"x"]}, {name: FRAMES})
    expected = labels(client.post("/v1/predict", content=record, headers=BINARY))
    for form in (base64.b64encode(FRAMES.tobytes()).decode(), FRAMES.reshape(-1).tolist(), FRAMES.tolist()):
        assert labels(client.post("/v1/predict", json={"videos": [{name: form}]})) == expected


def test_means_under_a_name_of_their_own_are_answered_as_in_protobuf(client_of: Callable[..., TestClient]) -> None:
    client = client_of(mean_embedding=16)
    record = encode_example({"id": [b"x"], "mean_embedding": MEANS})
    expected = labels(client.post("/v1/predict", content=record, headers=BINARY))
    assert labels(client.post("/v1/predict", json={"videos": [{"mean_embedding": MEANS.tolist()}]})) == expected
    frames = encode_sequence_example({"id": [b"x"]}, {"embedding": FRAMES})
    expected = labels(client.post("/v1/predict", content=frames, headers=BINARY))
    assert labels(client.post("/v1/predict", json={"videos": [{"embedding": FRAMES.tolist()}]})) == expected


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predict", {"videos": [{"x": [1] * 16}], "top_k": 10**4200}),
        ("/v1/predict", {"videos": [{"x": [10**4200]}]}),
        ("/v1/models/yt8m:predict", {"instances": [{"x": [1] * 16}], "parameters": {"top_k": 10**4200}}),
        ("/v1/models/yt8m:predict", {"instances": [{"x": [1] * 16}], "parameters": {"top_k": ["x"] * 100}}),
        ("/v2/models/yt8m/infer", {"parameters": {"top_k": 10**4200}}),
        ("/v2/models/yt8m/infer", {"parameters": {"top_k": ["x" * 5000]}}),
    ],
)
def test_errors_repeat_no_value_at_length(client_of: Callable[..., TestClient], path: str, body: Any) -> None:
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 1, 16], "data": [1] * 16}
    body = {**body, "inputs": [tensor]} if "/v2/" in path else body
    response = client_of(x=16).post(path, json=body)
    assert response.status_code in (400, 422) and len(response.text) < 300


def test_a_mean_that_is_too_large_is_not_repeated_at_length(client_of: Callable[..., TestClient]) -> None:
    body = {"videos": [{"mean_x": [10**4200] * 16}]}
    message = refusal(client_of(mean_x=16).post("/v1/predict", json=body))
    assert message.endswith("..., not a finite number") and len(message) < 150


@pytest.mark.parametrize("name", OWN_NAMES)
def test_errors_name_the_feature_as_the_model_does(client_of: Callable[..., TestClient], name: str) -> None:
    client = client_of(**{name: 16})

    def message(video: dict[str, Any]) -> str:
        return refusal(client.post("/v1/predict", json={"videos": [video]}))

    assert f"videos[0].{name}[1]: " in message({name: [1, 256]})
    assert f"valid: video_id, {name}" in message({"other": 1})
    assert f"this model needs the frames {name}; found none" in message({})


def test_what_was_given_in_its_place_is_named(client_of: Callable[..., TestClient]) -> None:
    client = client_of(rgb=16)
    message = "this model needs the frames rgb; found mean_audio, mean_rgb"
    video = {"video_id": "a", "mean_rgb": [0.5], "mean_audio": [1], "audio": None}
    assert message in refusal(client.post("/v1/predict", json={"videos": [video]}))
    record = encode_example({"id": [b"a"], "mean_rgb": MEANS, "mean_audio": MEANS, "labels": np.array([1])})
    assert message in refusal(client.post("/v1/predict", content=record, headers=BINARY))


def test_features_of_the_data_set_that_a_model_does_not_read_are_passed_over(
    client_of: Callable[..., TestClient],
) -> None:
    client = client_of(rgb=16)
    alone = labels(client.post("/v1/predict", json={"videos": [{"rgb": FRAMES.tolist()}]}))
    video = {"rgb": FRAMES.tolist(), "audio": "no base64", "mean_rgb": [1, 2, 3]}
    assert labels(client.post("/v1/predict", json={"videos": [video]})) == alone


@pytest.mark.parametrize("content_type", ["application/json", ""])
@pytest.mark.parametrize("space", ["", " \n\t", "\n", "\n\n", "\ufeff", "\ufeff\r\n", " " * 200])
def test_a_list_of_videos_is_a_body(client_of: Callable[..., TestClient], content_type: str, space: str) -> None:
    client = client_of(rgb=16)
    body = f'{space}[{{"video_id": "a", "rgb": {FRAMES.tolist()}}}, {{"rgb": {FRAMES[:2].tolist()}}}]'
    headers = {"content-type": content_type} if content_type else {}
    answer = client.post("/v1/predict?top_k=2", content=body.encode(), headers=headers).json()
    assert [each["video_id"] for each in answer["predictions"]] == ["a", ""]
    assert [len(each["labels"]) for each in answer["predictions"]] == [2, 2]


@pytest.mark.parametrize("mark", "{[")
def test_a_record_may_begin_like_json_behind_a_line_feed(client_of: Callable[..., TestClient], mark: str) -> None:
    client = client_of(mean_rgb=8)
    features = {"id": [b"x"], "mean_rgb": np.linspace(0, 1, 8).astype(np.float32)}
    size = ord(mark) - (len(encode_example({**features, "other": [b""]})) - 2)
    record = encode_example({**features, "other": [b"y" * size]})
    assert record[:2] == b"\n" + mark.encode()
    assert labels(client.post("/v1/predict", content=record))


@pytest.mark.parametrize("path", ["/v1/models/yt8m:predict", "/v2/models/yt8m/infer"])
@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\n" * 200, b"\xef\xbb\xbf \n"])
def test_the_protocols_of_others_take_what_may_stand_before_json(
    client_of: Callable[..., TestClient], path: str, start: bytes
) -> None:
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 1, 16], "data": [1] * 16}
    body = json.dumps({"instances": [{"x": [1] * 16}], "inputs": [tensor]}).encode()
    assert client_of(x=16).post(path, content=start + body).status_code == 200


def test_null_stands_for_what_is_not_given(client_of: Callable[..., TestClient]) -> None:
    client = client_of(rgb=16)
    video = {"video_id": None, "rgb": FRAMES.tolist(), "audio": None}
    answer = client.post("/v1/predict", json={"videos": [video], "top_k": None}).json()
    assert answer["predictions"][0]["video_id"] == ""
    answer = client.post("/v1/models/yt8m:predict", json={"instances": [video], "parameters": None}).json()
    assert answer["predictions"][0]["video_id"] == ""
    assert "at most 1000 characters" in refusal(client.post("/v1/predict", json=[{"video_id": "x" * 1001}]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "body: List should have at least 1 item"),
        ([{"rgb": [256]}], "[0].rgb[0]: expected a whole number from 0 to 255, found 256"),
        ([{"rgb": FRAMES.tolist()}, {}], "[1]: this model needs the frames rgb; found none"),
        ([{"video": 1}], "[0].video: unknown key; valid: video_id, rgb"),
        ([1], "[0]: "),
        ([{"rgb": FRAMES.tolist()}] * 4, "videos: at most 3 a request, found 4"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_the_place(
    client_of: Callable[..., TestClient], body: Any, message: str
) -> None:
    assert refusal(client_of(rgb=16).post("/v1/predict", json=body)).startswith(message)
