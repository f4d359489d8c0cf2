"""What keeps the service deployed: it waits for the bundle and for Ray, and deploys again on a head that is new."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.keep_deployed import Deployment

ROOT = Path(__file__).resolve().parents[3]
CONFIG: dict[str, Any] = {"applications": [{"name": "yt8m", "import_path": "serve.app:build"}]}
TOKEN = "0123abcd"


class Dashboard(http.server.ThreadingHTTPServer):
    """Answers as Ray Serve's REST interface does: PUT deploys, GET says what is deployed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.applications: dict[str, dict[str, str]] = {}
        self.configs: list[Any] = []
        self.status = "RUNNING"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        self._answer({"applications": self.server.applications})

    def do_PUT(self) -> None:
        config = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            self.server.configs.append(config)
            facts = {"status": self.server.status, "message": "no such\nbundle" if "FAIL" in self.server.status else ""}
            self.server.applications = {application["name"]: facts for application in config["applications"]}
        self._answer(None)

    def _answer(self, content: Any) -> None:
        is_allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        body = json.dumps(content).encode() if is_allowed else b"Unauthorized: no token"
        self.send_response(200 if is_allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with Dashboard() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    return tmp_path / "bundle"


def deployment(dashboard: Dashboard, model: Path | str | None) -> Deployment:
    return Deployment(CONFIG, dashboard.url, model=None if model is None else str(model), token=TOKEN)


def without_tokens() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}


def test_nothing_is_deployed_before_the_bundle_is_there(dashboard: Dashboard, tmp_path: Path) -> None:
    kept = deployment(dashboard, tmp_path / "bundle")
    (tmp_path / "bundle").mkdir()  # an empty folder is none: its manifest comes last

    assert kept.step().startswith(f"waiting for the bundle {tmp_path}/bundle, which is not there yet")
    assert dashboard.configs == []

    (tmp_path / "bundle" / "manifest.json").write_text("{}")

    assert kept.step() == f"deployed yt8m with {tmp_path}/bundle"
    (config,) = dashboard.configs
    assert [application.items() >= CONFIG["applications"][0].items() for application in config["applications"]] == [
        True
    ]
    assert kept.step() == "yt8m is RUNNING"
    assert len(dashboard.configs) == 1


def test_a_run_is_deployed_with_its_first_checkpoint_and_again_with_the_next(
    dashboard: Dashboard, tmp_path: Path
) -> None:
    kept = deployment(dashboard, tmp_path)
    assert kept.step().startswith("waiting for")
    for number in (1, 2):
        (tmp_path / f"epoch_000{number}").mkdir()
        (tmp_path / f"epoch_000{number}" / "manifest.json").write_text("{}" + " " * number)

        assert kept.step() == f"deployed yt8m with {tmp_path}"
    assert kept.step() == "yt8m is RUNNING"


@pytest.mark.parametrize("model", [None, "s3://bucket/bundle.tar", "models:/videos@champion"])
def test_what_is_not_on_this_machine_is_not_waited_for(dashboard: Dashboard, model: str | None) -> None:
    assert deployment(dashboard, model).step().startswith("deployed yt8m")


def test_a_head_that_knows_nothing_of_the_applications_gets_them_again(dashboard: Dashboard, bundle: Path) -> None:
    kept = deployment(dashboard, bundle)
    kept.step()
    dashboard.applications = {}

    assert kept.step() == f"deployed yt8m with {bundle}"
    assert kept.step() == "yt8m is RUNNING"
    first, second = dashboard.configs
    assert first == second


def test_at_its_start_it_deploys_whatever_is_there(dashboard: Dashboard, bundle: Path) -> None:
    deployment(dashboard, bundle).step()

    deployment(dashboard, bundle).step()

    assert len(dashboard.configs) == 2


def test_another_bundle_at_the_same_place_is_deployed_as_another_config(dashboard: Dashboard, bundle: Path) -> None:
    dashboard.status = "DEPLOY_FAILED"
    kept = deployment(dashboard, bundle)
    kept.step()

    assert kept.step() == kept.step() == "yt8m is DEPLOY_FAILED: no such bundle"
    assert len(dashboard.configs) == 1

    dashboard.status = "RUNNING"
    (bundle / "manifest.json").write_text('{"another": 1}')

    assert kept.step() == f"deployed yt8m with {bundle}"
    assert kept.step() == "yt8m is RUNNING"
    first, second = dashboard.configs
    assert first != second  # Ray Serve does nothing with a config that it has already


def test_a_cluster_that_is_not_there_or_refuses_is_waited_for(dashboard: Dashboard, bundle: Path) -> None:
    no_token = Deployment(CONFIG, dashboard.url, model=str(bundle))
    nobody = Deployment(CONFIG, "http://127.0.0.1:9", model=str(bundle), token=TOKEN)

    assert (
        no_token.step()
        == f"waiting for Ray Serve at {dashboard.url}/api/serve/applications/: 401 Unauthorized: no token"
    )
    assert nobody.step().startswith("waiting for Ray Serve at http://127.0.0.1:9/api/serve/applications/: ")


def test_the_command_says_each_state_once(dashboard: Dashboard, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "YT8M_MODEL": str(bundle)}
    command = [sys.executable, "-m", "serve.keep_deployed", str(tmp_path / "config.yaml"), "--address", dashboard.url]
    process = subprocess.Popen(
        [*command, "--interval-s", "0.02"],
        cwd=ROOT,
        env={**without_tokens(), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = [process.stderr.readline() for _ in range(2)]
        dashboard.applications = {}
        said += [process.stderr.readline() for _ in range(2)]
    finally:
        process.terminate()
        process.wait()

    assert said == [f"deployed yt8m with {bundle}\n", "yt8m is RUNNING\n"] * 2


def test_a_token_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    done = subprocess.run(
        [sys.executable, "-m", "serve.keep_deployed", str(tmp_path / "config.yaml"), "--address", "http://127.0.0.1:9"],
        cwd=ROOT,
        env={**without_tokens(), "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("error: RAY_AUTH_MODE is token: expected one in RAY_AUTH_TOKEN")
