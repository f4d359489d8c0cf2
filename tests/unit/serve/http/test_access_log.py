from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from serve.http.access_log import logger, write_access_log
from serve.http.api import build_api
from tests.support.local_service import LocalService
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.inference.predictor import Predictor

RECORD = encode_sequence_example({}, {"rgb": np.ones((4, 8), np.uint8), "audio": np.ones((4, 4), np.uint8)})
BINARY = {"content-type": "application/octet-stream"}
MADE = r"[0-9a-f]{8}-[0-9a-f-]{27}"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_path(save_checkpoint_of(tmp_path_factory.mktemp("models") / "checkpoint"))


@pytest.fixture
def service(predictor: Predictor) -> LocalService:
    return LocalService(predictor)


@pytest.fixture
def client(service: LocalService, caplog: pytest.LogCaptureFixture) -> Iterator[TestClient]:
    caplog.set_level(logging.INFO, logger.name)
    with TestClient(build_api(service), raise_server_exceptions=False) as client:
        yield client


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == logger.name]


def test_a_request_leaves_one_line_of_json(
    client: TestClient, service: LocalService, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.post("/v1/predict?top_k=3", content=RECORD, headers=BINARY)
    (line,) = lines(caplog)
    version = service.host.current.version
    known = {"method": "POST", "route": "/v1/predict", "status": 200, "model": version, "videos": 1}
    assert known.items() <= line.items()
    assert line["request_id"] == response.headers["x-request-id"] == response.json()["request_id"]
    assert line["milliseconds"] > 0 and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("POST", "/v1/predict", "/v1/predict", 400),
        ("GET", "/v1/predict", "/v1/predict", 405),
        ("GET", "/nothing/at/all", "none", 404),
        ("GET", "/healthz", "/healthz", 200),
        ("HEAD", "/healthz", "/healthz", 200),
        ("HEAD", "/v1/predict", "/v1/predict", 405),
    ],
)
def test_refusals_are_counted_and_logged_by_route(
    client: TestClient,
    service: LocalService,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    route: str,
    status: int,
) -> None:
    assert client.request(method, path).status_code == status
    (line,) = lines(caplog)
    assert (line["method"], line["route"], line["status"]) == (method, route, status)
    labels = f'replica="local",route="{route}",status="{status}"'
    assert f"yt8m_requests_total{{{labels}}} 1.0" in service.metrics.text()


def test_a_plain_id_is_kept_in_header_body_and_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    response = client.get("/nothing", headers={"x-request-id": "Mine_1.a-b"})
    assert response.headers.get_list("x-request-id") == ["Mine_1.a-b"]
    assert response.json()["error"]["request_id"] == lines(caplog)[0]["request_id"] == "Mine_1.a-b"


@pytest.mark.parametrize("given", ["", "x" * 101, "a b", "<script>", 'a"b', "ä".encode("latin-1"), "a;b"])
def test_an_implausible_id_is_replaced_everywhere(
    client: TestClient, caplog: pytest.LogCaptureFixture, given: str | bytes
) -> None:
    response = client.get(
        "/nothing", headers=[(b"x-request-id", given if isinstance(given, bytes) else given.encode())]
    )
    (made,) = response.headers.get_list("x-request-id")
    assert re.fullmatch(MADE, made)
    assert response.json()["error"]["request_id"] == lines(caplog)[0]["request_id"] == made


def test_two_ids_are_none(client: TestClient) -> None:
    response = client.get("/nothing", headers=[("x-request-id", "a"), ("x-request-id", "b")])
    assert re.fullmatch(MADE, response.headers["x-request-id"])
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


def test_a_failure_of_the_server_has_its_id_too(
    client: TestClient, service: LocalService, caplog: pytest.LogCaptureFixture
) -> None:
    service.host.choose = lambda _: 1 / 0  # type: ignore[method-assign, assignment]
    response = client.post("/v1/predict", content=RECORD, headers=BINARY)
    assert response.status_code == 500 and "division" not in response.text
    (line,) = lines(caplog)
    assert response.headers.get_list("x-request-id") == [line["request_id"]]
    assert line["status"] == 500 and response.json()["error"]["request_id"] == line["request_id"]


def test_behind_a_server_that_sends_the_id_it_is_not_sent_twice(service: LocalService) -> None:
    client = TestClient(build_api(service, sends_ids=False), raise_server_exceptions=False)
    assert "x-request-id" not in client.get("/healthz").headers
    service.host.choose = lambda _: 1 / 0  # type: ignore[method-assign, assignment]
    assert "x-request-id" not in client.post("/v1/predict", content=RECORD, headers=BINARY).headers


def test_a_request_that_is_cancelled_is_one_whose_client_left(
    service: LocalService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger.name)
    api = build_api(service)
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": []}

    async def main() -> None:
        async def receive() -> Message:
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            raise AssertionError(message)

        request = asyncio.create_task(api(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert 'yt8m_requests_in_flight{replica="local"} 1.0' in service.metrics.text()
        request.cancel()
        await asyncio.wait([request])

    asyncio.run(main())
    assert [line["status"] for line in lines(caplog)] == [499]
    text = service.metrics.text()
    assert 'yt8m_requests_in_flight{replica="local"} 0.0' in text
    assert 'yt8m_refusals_total{code="client_went_away",replica="local"} 1.0' in text


def test_lines_can_go_to_a_file_of_their_own(client: TestClient, tmp_path: Path) -> None:
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    try:
        write_access_log(tmp_path / "new" / "access.jsonl")
        client.get("/healthz")
        client.get("/nothing")
    finally:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
            logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
    found = [json.loads(line) for line in (tmp_path / "new" / "access.jsonl").read_text().splitlines()]
    assert [line["route"] for line in found] == ["/healthz", "none"]
