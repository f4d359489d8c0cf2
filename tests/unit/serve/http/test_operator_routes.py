from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.operations.changes import Canary, Change, Promote, Rollback
from serve.settings import ServeArgs
from tests.support.local_service import LocalService
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.inference.predictor import Predictor

OPERATOR = {"authorization": "Bearer operators-token"}
PATHS = ("/v1/admin/promote", "/v1/admin/canary", "/v1/admin/rollback")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_path(save_checkpoint_of(tmp_path_factory.mktemp("models") / "checkpoint"))


@pytest.fixture
def service(predictor: Predictor, tmp_path: Path) -> LocalService:
    files = {name: tmp_path / name for name in ("clients", "operators")}
    for name, path in files.items():
        path.write_text(f"{name}-token\n")
        path.chmod(0o600)
    args = ServeArgs(tokens_file=str(files["clients"]), admin_tokens_file=str(files["operators"]))
    return LocalService(predictor, args=args)


@pytest.fixture
def client(service: LocalService) -> TestClient:
    return TestClient(build_api(service))


def message(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    found: str = response.json()["error"]["message"]
    return found


@pytest.mark.parametrize("authorization", [None, "", "Bearer wrong", "Bearer clients-token", "Basic operators-token"])
@pytest.mark.parametrize("path", PATHS)
def test_a_change_needs_a_token_of_an_operator(
    client: TestClient, service: LocalService, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = client.post(path, json={"model": "b", "share": 0.1}, headers=headers)
    assert "a token of an operator" in message(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/admin/releases", headers=headers).status_code == 401
    assert service.changes == []


@pytest.mark.parametrize(
    ("what", "body", "change"),
    [
        ("promote", {"model": "b"}, Promote("b")),
        ("promote", {}, Promote()),
        ("canary", {"model": "b", "share": 0.1}, Canary("b", 0.1)),
        ("canary", {"share": 0}, Canary()),
        ("rollback", None, Rollback()),
        ("promote", {"model": "b", "share": None}, Promote("b")),
    ],
)
def test_an_operator_changes_models(
    client: TestClient, service: LocalService, what: str, body: Any, change: Change
) -> None:
    response = client.post(f"/v1/admin/{what}", json=body, headers=OPERATOR)
    assert response.status_code == 200 and response.json() == {"release": {"number": 1}}
    assert service.changes == [change]
    assert client.get("/v1/admin/releases", headers=OPERATOR).json() == {"release": {"number": 1}}


def test_a_change_that_is_refused_is_told_with_its_reason(client: TestClient) -> None:
    response = client.post("/v1/admin/promote", json={"model": "broken"}, headers=OPERATOR)
    assert message(response, 409) == "refused, nothing was changed: broken: no such folder"
    assert response.json()["error"]["code"] == "refused"


@pytest.mark.parametrize(
    ("what", "body", "told"),
    [
        ("canary", {"model": "b"}, "share: a canary answers more than 0"),
        ("canary", {"model": "b", "share": 1.5}, "share: "),
        ("canary", {"model": "b", "share": "0.1"}, "share: "),
        ("promote", {"model": "b", "share": 0.5}, "share: promote takes none"),
        ("rollback", {"model": "b"}, "model: a rollback goes back"),
        ("promote", {"modell": "b"}, "modell: "),
        ("promote", {"modell": None}, "modell: "),
        ("promote", {"model": "x" * 201}, "model: "),
        ("promote", [], "body: "),
    ],
)
def test_a_change_that_means_nothing_is_refused(
    client: TestClient, service: LocalService, what: str, body: Any, told: str
) -> None:
    assert told in message(client.post(f"/v1/admin/{what}", json=body, headers=OPERATOR), 422)
    assert service.changes == []


def test_a_body_that_is_no_json_is_refused_without_being_repeated(client: TestClient) -> None:
    response = client.post("/v1/admin/promote", content=b"\xffsecret", headers=OPERATOR)
    assert "secret" not in message(response, 400)


@pytest.mark.parametrize(
    "content", [gzip.compress(b'{"model": "b"}'), b'\xef\xbb\xbf\n {"model": "b"}'], ids=["gzip", "marked"]
)
def test_a_change_may_be_packed_and_marked_as_other_bodies_may(
    client: TestClient, service: LocalService, content: bytes
) -> None:
    headers = {**OPERATOR, "content-encoding": "gzip"} if content[:1] == b"\x1f" else OPERATOR
    assert client.post("/v1/admin/promote", content=content, headers=headers).status_code == 200
    assert service.changes == [Promote("b")]
    bomb = gzip.compress(bytes(2**20))
    response = client.post("/v1/admin/promote", content=bomb, headers={**OPERATOR, "content-encoding": "gzip"})
    assert "at most 65536 bytes once it is unpacked" in message(response, 413)


def test_without_a_file_of_tokens_there_is_no_administration(predictor: Predictor) -> None:
    client = TestClient(build_api(LocalService(predictor)))
    for path in PATHS:
        assert client.post(path, json={}, headers=OPERATOR).status_code == 404
    assert client.get("/v1/admin/releases", headers=OPERATOR).status_code == 404
    assert "/v1/admin" not in client.get("/openapi.json").text


def test_an_operators_token_predicts_nothing_and_clients_need_their_own(client: TestClient) -> None:
    def ask(**headers: str) -> httpx.Response:
        return client.post("/v1/predict", content=b"x", headers={"content-type": "application/octet-stream", **headers})

    assert "a token of this service" in message(ask(), 401)
    assert ask(**OPERATOR).status_code == 401
    assert ask(authorization="Bearer clients-token").status_code == 400


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/docs"])
def test_probes_and_documents_need_no_token(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_a_replica_that_is_not_ready_says_so(client: TestClient, service: LocalService) -> None:
    service.ready = False
    response = client.get("/healthz")
    assert (response.status_code, response.json()["status"]) == (503, "not_ready")


def test_tokens_are_changed_without_a_restart(
    client: TestClient, service: LocalService, tmp_path: Path, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    (tmp_path / "operators").write_text("another-token\n")
    assert client.get("/v1/admin/releases", headers=OPERATOR).status_code == 401
    assert client.get("/v1/admin/releases", headers={"authorization": "Bearer another-token"}).status_code == 200
