"""Deadlines, slow and large bodies: a real server and clients on sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.settings import Limits
from tests.support.local_service import LocalService
from tests.support.servers import running
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.inference.predictor import Predictor

FRAMES = {"rgb": np.ones((4, 8), np.uint8), "audio": np.ones((4, 4), np.uint8)}
RECORD = encode_sequence_example({"id": [b"abcd"]}, FRAMES)
BINARY = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> LocalService:
    checkpoint = save_checkpoint_of(tmp_path_factory.mktemp("models") / "checkpoint")
    return LocalService(Predictor.from_path(checkpoint), Limits(body_timeout_s=0.5, max_body_bytes=20_000))


@pytest.fixture(scope="module")
def client(service: LocalService) -> Iterator[TestClient]:
    with TestClient(build_api(service)) as client:
        yield client


@pytest.fixture(scope="module")
def port(service: LocalService) -> Iterator[int]:
    with running(build_api(service)) as port:
        yield port


def connect(port: int, head: str, body: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    lines = ["POST /v1/predict HTTP/1.1", "host: localhost", "content-type: application/octet-stream", head]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def read_all(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Returns status and error of an answer, after which the server has to close the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    assert b"x-request-id: " in head
    return int(head.split()[1]), json.loads(body)["error"]


def post(client: TestClient, **headers: str) -> httpx.Response:
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post("/v1/predict", content=RECORD, headers={**BINARY, **names})


def test_a_deadline_that_a_client_sets_is_kept(client: TestClient) -> None:
    response = post(client, x_request_timeout_seconds="1e-9")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert post(client, x_request_timeout_seconds="20").status_code == 200


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_deadline_that_is_no_time_is_refused(client: TestClient, value: str) -> None:
    response = post(client, x_request_timeout_seconds=value)
    assert response.status_code == 422
    assert "expected a positive number of seconds" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "content", "content_type"),
    [
        ("/v1/predict", b"no record", "application/octet-stream"),
        ("/v1/predict", b"{}", "application/json"),
        ("/v2/models/yt8m/infer", b"{}", "application/json"),
    ],
)
def test_the_deadline_covers_decoding(
    client: TestClient, service: LocalService, path: str, content: bytes, content_type: str
) -> None:
    go_on = threading.Event()
    service.intake.submit(go_on.wait)  # somebody else's body
    headers = {"content-type": content_type, "x-request-timeout-seconds": "0.05"}
    response = client.post(path, content=content, headers=headers)
    go_on.set()
    assert response.status_code == 504 and "the deadline passed before the body was decoded" in response.text


def test_an_ordinary_record_waits_for_no_body_that_is_being_decoded(client: TestClient, service: LocalService) -> None:
    go_on = threading.Event()
    service.intake.submit(go_on.wait)
    assert post(client, x_request_timeout_seconds="20").status_code == 200
    go_on.set()


@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/yt8m/infer"])
def test_more_bodies_than_there_is_room_for_are_refused_for_now(
    client: TestClient, service: LocalService, path: str
) -> None:
    most = service.limits.max_pending_bytes
    service.intake.add(most)
    response = client.post(path, content=RECORD)
    service.intake.remove(most)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert f"at most {most} are" in response.text


@pytest.mark.parametrize("head", ["content-length: 100", "transfer-encoding: chunked"])
def test_a_client_that_stops_in_the_middle_is_refused_and_let_go(port: int, head: str) -> None:
    with connect(port, head, b"5\r\nabcde\r\n" if "chunked" in head else b"abcde") as connection:
        started = time.monotonic()
        status, error = read_all(connection)
    assert (status, error["code"]) == (408, "body_too_slow")
    assert "expected all of it within 0.5 s, found 5 bytes until then" in str(error["message"])
    assert 0.4 < time.monotonic() - started < 10


def test_a_client_that_drips_is_refused_too_and_others_are_answered_meanwhile(port: int) -> None:
    with connect(port, "content-length: 1000") as connection:
        started = time.monotonic()
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/predict", content=RECORD, headers=BINARY, timeout=20)
        assert answer.status_code == 200
        while time.monotonic() - started < 0.45:
            connection.sendall(b"x")
            time.sleep(0.05)
        assert read_all(connection)[0] == 408


def test_a_body_of_a_gigabyte_is_refused_before_it_is_sent(port: int) -> None:
    with connect(port, f"content-length: {2**30}") as connection:
        status, error = read_all(connection)
    assert status == 413 and "at most 20000 bytes, found 1073741824" in str(error["message"])


def test_a_length_of_a_thousand_digits_is_refused(port: int) -> None:
    with connect(port, f"content-length: {'9' * 1000}") as connection:
        assert connection.recv(100).split()[1] in (b"400", b"413")


def test_chunks_beyond_the_limit_are_refused_while_they_come(port: int) -> None:
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    with connect(port, "transfer-encoding: chunked", chunk + chunk) as connection:
        status, error = read_all(connection)
    assert status == 413 and "found more" in str(error["message"])


def test_a_client_that_goes_away_is_counted_and_harms_nobody(service: LocalService, port: int) -> None:
    for _ in range(5):
        connect(port, "content-length: 100", b"abc").close()
    deadline = time.monotonic() + 10
    counted = 'yt8m_requests_total{replica="local",route="/v1/predict",status="400"}'
    while counted not in service.metrics.text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/predict", content=RECORD, headers=BINARY, timeout=20)
    assert answer.status_code == 200


def test_a_full_queue_refuses_before_the_body_is_read(tmp_path: Path) -> None:
    service = LocalService(Predictor.from_path(save_checkpoint_of(tmp_path / "checkpoint")))
    service.limits = Limits(max_queued_videos=1)

    class Full:
        num_queued = 1

        def check_room(self, num_videos: int = 1) -> None:
            from serve.errors import OverloadedError

            raise OverloadedError("the queue of 1 videos is full", retry_after_s=3)

    service.__class__ = type("FullService", (LocalService,), {"batcher": Full()})
    with running(build_api(service)) as port, connect(port, "content-length: 100") as connection:
        connection.settimeout(5)
        answer = connection.recv(65536)
    assert answer.split()[1] == b"503" and b"retry-after: 3" in answer
