"""The deployment of docker-compose.yml, without containers: a bundle that comes late, a head that is another one."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Head, free_port, started
from tests.e2e.processes import Command
from tests.e2e.service import is_healthy, write_config
from tests.support.tiny import write_bundle_of


def version(port: int) -> str | None:
    """Returns which model answers, None while none does."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30)
    except httpx.TransportError:
        return None
    return str(answer.json()["model_version"]) if answer.status_code == 200 else None


@pytest.mark.soak
def test_the_service_starts_when_its_bundle_is_there_and_again_on_a_head_that_was_restarted(
    tmp_path: Path,
) -> None:
    head, port, bundle = Head(num_cpus=2), free_port(), tmp_path / "bundle"
    config = write_config(bundle, tmp_path / "serve.yaml", port)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    arguments = [str(config), "--address", f"http://127.0.0.1:{head.dashboard_port}", "--interval-s", "1"]
    environment = {**head.environment, "YT8M_MODEL": str(bundle)}
    command = (sys.executable, "-m", "serve.keep_deployed", *arguments)

    with Command(*command, folder=tmp_path, environment=environment) as keeper:
        keeper.wait_until(lambda: "waiting for the bundle" in keeper.stderr)
        with started(head, tmp_path / "first"):
            write_bundle_of(tmp_path / "first" / "bundle").rename(bundle)
            keeper.wait_until(lambda: is_healthy(port))
        keeper.wait_until(lambda: keeper.stderr.endswith("no connection\n"))
        assert not is_healthy(port)
        with started(head, tmp_path / "second"):
            keeper.wait_until(lambda: is_healthy(port))
            before = version(port)
            shutil.rmtree(bundle)
            write_bundle_of(tmp_path / "second" / "bundle", data={"num_classes": 31}).rename(bundle)
            keeper.wait_until(lambda: version(port) not in (before, None))
        said = keeper.stderr.splitlines()

    assert [line for line in said if line.startswith("deployed")] == [f"deployed yt8m with {bundle}"] * 3
