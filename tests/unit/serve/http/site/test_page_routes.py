"""The page, its files and the policy that they come with; what the page does is tested in a browser (tests/e2e)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.http.site.page_routes import FOLDER
from serve.settings import ServeArgs
from tests.support.local_service import LocalService
from yt8m_ray.inference.predictor import Predictor

FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture
def client(save_tiny_checkpoint: Callable[..., Path]) -> TestClient:
    return TestClient(build_api(LocalService(Predictor.from_path(save_tiny_checkpoint()))))


def test_the_page_links_to_nothing_but_files_of_its_own_and_the_docs(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = set(re.findall(r'(?:href|src)="([^"#][^"]*)"', page.text))
    assert links == {"docs", "page/icon.svg", "page/page.css", "page/page.js"}
    for link in links:
        assert client.get(f"/{link}").status_code == 200


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host(name: str) -> None:
    text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")  # the name of a namespace
    assert not re.search(r"(?:https?|wss?):|[\"'(]//", text)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_as_it_is_under_the_policy(client: TestClient, name: str) -> None:
    response = client.get("/" if name == "index.html" else f"/page/{name}")
    assert response.content == (FOLDER / name).read_bytes()
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy["default-src"] == "'none'" and set(policy.values()) == {"'none'", "'self'"}
    assert response.headers["x-content-type-options"] == "nosniff"


def test_modules_import_modules_that_are_there() -> None:
    scripts = {name for name in FILES if name.endswith(".js")}
    for name in scripts:
        for imported in re.findall(r'from "\./([^"]+)"', (FOLDER / name).read_text()):
            assert imported in scripts, f"{name} imports {imported}"


def test_the_page_has_nothing_inline_that_its_policy_would_refuse() -> None:
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=|<script(?![^>]*src=)", page)


def test_a_page_of_another_name_is_not_there(client: TestClient) -> None:
    assert client.get("/page/nothing.js").status_code == 404
    assert client.get("/page/..%2Fapi.py").status_code == 404


def test_the_page_needs_no_token(save_tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    predictor = Predictor.from_path(save_tiny_checkpoint())
    service = LocalService(predictor, args=ServeArgs(tokens_file=str(tmp_path / "tokens")))
    client = TestClient(build_api(service))
    assert client.get("/").status_code == 200
    for path in ("/v1/model", "/v1/examples", "/v1/examples/1"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer secret"}).status_code in (200, 404)
