from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.http.api import build_api
from serve.operations.changes import Canary
from tests.support.local_service import LocalService, administered_service
from tests.support.servers import running
from yt8m_ray.cli.service_client import ServiceClient, ServiceError
from yt8m_ray.errors import ConfigError


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> LocalService:
    return administered_service(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def url(service: LocalService) -> Iterator[str]:
    with running(build_api(service)) as port:
        yield f"http://127.0.0.1:{port}"


def test_releases_are_told_and_changed(service: LocalService, url: str) -> None:
    client = ServiceClient(f"{url}/", "the-token", timeout_s=20)
    before = client.releases()
    after = client.change("canary", {"model": "b", "share": 0.25})
    assert after["release"]["number"] == before["release"]["number"] + 1
    assert service.changes[-1] == Canary("b", 0.25)


def test_a_refusal_is_the_services_own_sentence(url: str) -> None:
    with pytest.raises(ServiceError, match=r"promote: 409: refused, nothing was changed: broken: no such folder$"):
        ServiceClient(url, "the-token", timeout_s=20).change("promote", {"model": "broken"})


def test_a_netrc_does_not_take_the_place_of_the_token(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert ServiceClient(url, "the-token", timeout_s=20).releases()["release"]


def test_the_wrong_token_is_told_without_repeating_it(url: str) -> None:
    with pytest.raises(ServiceError, match="401: authorization: expected Bearer and a token of an operator") as told:
        ServiceClient(url, "wrong-secret", timeout_s=20).releases()
    assert "wrong-secret" not in str(told.value)


def test_a_service_without_administration_says_so(service: LocalService) -> None:
    with (
        running(build_api(LocalService(service.host.current.predictor))) as port,
        pytest.raises(ServiceError, match="404: the service has no administration"),
    ):
        ServiceClient(f"http://127.0.0.1:{port}", "t", timeout_s=20).releases()


def test_a_service_that_does_not_answer_is_one_sentence() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"no answer: ConnectionError$"):
            ServiceClient(url, "t", timeout_s=5).releases()
        silent.listen()
        with pytest.raises(ServiceError, match=r"no answer within 0\.2 s; a change goes on: see status$"):
            ServiceClient(url, "t", timeout_s=0.2).change("promote", {"model": "b"})


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "file:///etc/passwd", ""])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: expected http"):
        ServiceClient(url, "t", timeout_s=1)
