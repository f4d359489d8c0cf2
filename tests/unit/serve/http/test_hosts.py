"""A Host header that names another host: what a browser sends whose page let its own name point here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.settings import ServeArgs
from tests.support.local_service import LocalService
from yt8m_ray.inference.predictor import Predictor

LOCAL = ("localhost", "LocalHost:8000", "localhost.", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000")
BY_ADDRESS = ("10.0.0.7:8000", "[2001:db8::7]")
FOREIGN = (
    "rebind.example",
    "rebind.example:8000",
    "localhost.rebind.example",
    "127.0.0.1.rebind.example",
    "localhost@rebind.example",
    "rebind.example#localhost",
    "127.0.0.1:8000:8000",
    "[::1].rebind.example",
    "[localhost]",
    "2130706433",
    "localhost rebind.example",
)


@pytest.fixture
def predictor(save_tiny_checkpoint: Callable[..., Path]) -> Predictor:
    return Predictor.from_path(save_tiny_checkpoint())


@pytest.fixture
def client(predictor: Predictor) -> TestClient:
    return TestClient(build_api(LocalService(predictor)))


@pytest.mark.parametrize("host", [*LOCAL, *BY_ADDRESS])
def test_this_machine_and_addresses_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/v1/model", "/docs", "/nothing"])
@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_is_refused_on_every_path(client: TestClient, path: str, host: str) -> None:
    response = client.get(path, headers={"host": host})
    assert response.status_code == 421
    error = response.json()["error"]
    assert error["code"] == "misdirected_request"
    assert "valid: localhost, testserver, addresses; others: args.allowed_hosts" in error["message"]


def test_a_foreign_name_is_refused_in_the_form_of_the_protocol_and_before_the_body_is_read(client: TestClient) -> None:
    response = client.post("/v2/models/yt8m/infer", content=b"x" * 1000, headers={"host": "rebind.example"})
    assert (response.status_code, response.headers["connection"]) == (421, "close")
    assert re.match("host: 'rebind.example' is not this service", response.json()["error"])


def test_a_second_host_is_looked_at_too(client: TestClient) -> None:
    response = client.get("/healthz", headers=[("host", "localhost"), ("host", "rebind.example")])
    assert response.status_code == 421


def test_a_name_that_is_configured_is_answered_and_no_other(predictor: Predictor) -> None:
    client = TestClient(build_api(LocalService(predictor, args=ServeArgs(allowed_hosts=("Videos.example",)))))
    assert client.get("/healthz", headers={"host": "videos.example:8000"}).status_code == 200
    assert client.get("/healthz", headers={"host": "localhost"}).status_code == 421


def test_a_star_takes_all_names(predictor: Predictor) -> None:
    client = TestClient(build_api(LocalService(predictor, args=ServeArgs(allowed_hosts=("*",)))))
    assert client.get("/healthz", headers={"host": "rebind.example"}).status_code == 200


@pytest.mark.parametrize("name", ["localhost:8000", "http://localhost", "*.example", ""])
def test_a_configured_name_is_a_name_alone(name: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="allowed_hosts"):
        ServeArgs.model_validate({"allowed_hosts": [name]})


def test_refused_requests_are_counted(predictor: Predictor) -> None:
    service = LocalService(predictor)
    TestClient(build_api(service)).get("/healthz", headers={"host": "rebind.example"})
    assert 'yt8m_refusals_total{code="misdirected_request",replica="local"} 1.0' in service.metrics.text()
