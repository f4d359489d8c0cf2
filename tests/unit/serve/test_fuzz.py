"""Mutated bodies: whatever arrives, the answer is a 200 or a refusal in the one shape, never a failure here."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import strategies as st

from serve.http.api import build_api
from tests.support.local_service import LocalService
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.inference.predictor import Predictor

FRAMES = {"rgb": np.arange(32, dtype=np.uint8).reshape(4, 8), "audio": np.arange(16, dtype=np.uint8).reshape(4, 4)}
RECORD = encode_sequence_example({"id": [b"abcd"], "labels": np.array([3, 5])}, FRAMES)
BODY = json.dumps(
    {
        "videos": [{"video_id": "a", **{name: base64.b64encode(x.tobytes()).decode() for name, x in FRAMES.items()}}],
        "top_k": 3,
    }
).encode()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    checkpoint = save_checkpoint_of(tmp_path_factory.mktemp("models") / "checkpoint")
    # Exceptions of the server are raised into the test: a 500 cannot hide. In the block all requests share a loop.
    with TestClient(build_api(LocalService(Predictor.from_path(checkpoint)))) as client:
        yield client


def mutate(body: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    data = bytearray(body)
    for kind, where, value in edits:
        position = where % (len(data) + 1)
        end = position + (len(value) if kind == "replace" else where % 7 if kind == "delete" else 0)
        data[position:end] = b"" if kind == "delete" else value
    return bytes(data)


EDITS = st.lists(
    st.tuples(st.sampled_from(["replace", "insert", "delete"]), st.integers(0, 400), st.binary(max_size=4)),
    min_size=1,
    max_size=4,
)


def check(client: TestClient, body: bytes, content_type: str) -> None:
    response = client.post("/v1/predict", content=body, headers={"content-type": content_type})
    assert response.status_code in (200, 400, 422), response.text
    if response.status_code != 200:
        assert response.json()["error"]["message"]


@hypothesis.given(edits=EDITS)
def test_mutated_records_are_answered_or_refused(client: TestClient, edits: list[tuple[str, int, bytes]]) -> None:
    check(client, mutate(RECORD, edits), "application/octet-stream")


@hypothesis.given(edits=EDITS)
def test_mutated_json_is_answered_or_refused(client: TestClient, edits: list[tuple[str, int, bytes]]) -> None:
    check(client, mutate(BODY, edits), "application/json")


SHARD = b"".join(map(frame_record, [RECORD] * 3))
TENSORS = json.dumps(
    {
        "inputs": [
            {"name": name, "datatype": "UINT8", "shape": [1, *x.shape], "parameters": {"binary_data_size": x.size}}
            for name, x in FRAMES.items()
        ]
    }
).encode()


@hypothesis.given(edits=EDITS)
def test_mutated_shards_are_answered_line_by_line_or_refused(
    client: TestClient, edits: list[tuple[str, int, bytes]]
) -> None:
    body = mutate(SHARD, edits)
    response = client.post("/v1/predict", content=body, headers={"content-type": "application/x-tfrecord"})
    assert response.status_code in (200, 400, 413), response.text
    if response.status_code == 200:
        lines = [json.loads(line) for line in response.text.splitlines()]
        assert [line["record"] for line in lines] == list(range(len(lines)))
        assert all(line["error"]["message"] if "error" in line else line["labels"] for line in lines)


@hypothesis.given(edits=EDITS)
def test_mutated_tensors_are_answered_or_refused(client: TestClient, edits: list[tuple[str, int, bytes]]) -> None:
    body = mutate(TENSORS + b"".join(x.tobytes() for x in FRAMES.values()), edits)
    headers = {"inference-header-content-length": str(len(TENSORS))}
    response = client.post("/v2/models/yt8m/infer", content=body, headers=headers)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json().keys() == {"error"} and response.json()["error"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=8,
)


@hypothesis.given(key=st.sampled_from(["video_id", "rgb", "audio", "mean_rgb", "other"]), value=JSON_VALUES)
def test_any_json_in_the_place_of_a_feature_is_answered_or_refused(client: TestClient, key: str, value: object) -> None:
    tree = json.loads(BODY)
    tree["videos"][0][key] = value
    check(client, json.dumps(tree).encode(), "application/json")


@hypothesis.given(
    place=st.sampled_from(["request", "input"]),
    key=st.sampled_from(["id", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data"]),
    value=JSON_VALUES,
)
def test_any_json_in_the_place_of_a_tensor_is_answered_or_refused(
    client: TestClient, place: str, key: str, value: object
) -> None:
    inputs = [
        {"name": name, "datatype": "UINT8", "shape": [1, *x.shape], "data": x.tolist()} for name, x in FRAMES.items()
    ]
    tree: dict[str, object] = {"inputs": inputs}
    (tree if place == "request" else inputs[0])[key] = value
    response = client.post("/v2/models/yt8m/infer", content=json.dumps(tree).encode())
    assert response.status_code in (200, 400), response.text


@pytest.mark.parametrize("number", ["1" + "0" * 5000, "-1", "1e3", "0.0", "1" * 20])
def test_any_number_as_top_k_is_refused(client: TestClient, number: str) -> None:
    body = BODY.replace(b'"top_k": 3', f'"top_k": {number}'.encode())
    response = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
