"""Inputs that users of such systems brought, where they lie beside the real data: what the service says of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from tests.support.local_service import LocalService
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.schema import FRAME_FEATURES, VIDEO_FEATURES

SHARD = {"content-type": "application/x-tfrecord"}


@pytest.fixture(scope="session")
def cases(yt8m_data: Path) -> Path:
    folder = yt8m_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases: {folder} is not a folder")
    return folder


@pytest.fixture
def client_of(save_tiny_checkpoint: Callable[..., Path]) -> Callable[..., TestClient]:
    def make(features: dict[str, int]) -> TestClient:
        data = {"features": features, "num_classes": 48, "max_frames": 300}
        return TestClient(build_api(LocalService(Predictor.from_path(save_tiny_checkpoint(data=data)))))

    return make


def lines(client: TestClient, shard: Path) -> list[dict[str, Any]]:
    response = client.post("/v1/predict?top_k=3", content=shard.read_bytes(), headers=SHARD)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_value_that_is_not_finite_is_refused_with_its_feature(
    cases: Path, client_of: Callable[..., TestClient]
) -> None:
    client = client_of(VIDEO_FEATURES)
    response = client.post("/v1/predict", content=(cases / "nan.pb").read_bytes())
    message = response.json()["error"]["message"]
    assert response.status_code == 422 and "mean_rgb: value " in message and "not a finite number" in message


def test_such_a_record_of_a_shard_costs_its_own_line_alone(cases: Path, client_of: Callable[..., TestClient]) -> None:
    found = lines(client_of(VIDEO_FEATURES), cases / "nan.tfrecord")
    assert ["error" in found[record] for record in (0, 1, 2, 4)] == [False, True, True, False]
    for line, feature in zip(found[1:3], ("mean_rgb", "mean_audio"), strict=True):
        assert f"{feature}: value " in line["error"]["message"]
        assert "not a finite number" in line["error"]["message"]


def test_keys_of_another_system_are_named(cases: Path, client_of: Callable[..., TestClient]) -> None:
    for line in lines(client_of(FRAME_FEATURES), cases / "mediapipe.tfrecord"):
        assert "RGB/feature/floats" in line["error"]["message"]


def test_videos_with_ratings_of_segments_or_without_labels_are_answered(
    cases: Path, client_of: Callable[..., TestClient]
) -> None:
    assert all(len(line["labels"]) == 3 for line in lines(client_of(FRAME_FEATURES), cases / "segments.tfrecord"))
