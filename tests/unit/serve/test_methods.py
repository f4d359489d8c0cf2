"""Methods: HEAD where GET is, and what is said to those that a path does not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from tests.support.local_service import LocalService
from yt8m_ray.inference.predictor import Predictor


@pytest.fixture
def client(save_tiny_checkpoint: Callable[..., Path]) -> TestClient:
    return TestClient(build_api(LocalService(Predictor.from_path(save_tiny_checkpoint()))))


@pytest.mark.parametrize(
    "path", ["/healthz", "/metrics", "/", "/page/page.js", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"]
)
def test_head_is_answered_where_get_is_without_the_body(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    for name in ("content-type", "content-security-policy"):
        assert head.headers.get(name) == got.headers.get(name)
    if path != "/metrics":  # which counts the requests too
        assert head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/predict", ["POST"]),
        ("DELETE", "/healthz", ["GET", "HEAD"]),
        ("POST", "/", ["GET", "HEAD"]),
        ("PUT", "/v2/repository/index", ["GET", "HEAD", "POST"]),
        ("GET", "/v2/models/yt8m/infer", ["POST"]),
        ("POST", "/v2/models/yt8m", ["GET", "HEAD"]),
    ],
)
def test_another_method_is_told_those_that_are_there(
    client: TestClient, method: str, path: str, expected: list[str]
) -> None:
    response = client.request(method, path)
    error = response.json()["error"]
    assert response.status_code == 405 and response.headers["allow"] == ", ".join(expected)
    message = error if path.startswith("/v2") else error["message"]
    assert message == f"{method} {path}: expected {' or '.join(expected)} here"


def test_head_of_a_path_that_takes_posts_alone_is_refused_without_a_body(client: TestClient) -> None:
    response = client.head("/v1/predict")
    assert (response.status_code, response.headers["allow"], response.content) == (405, "POST", b"")
