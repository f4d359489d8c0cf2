"""jobs.release against the HTTP application of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.http.api import build_api
from serve.operations.changes import Canary, Change, Promote, Rollback
from tests.e2e.conftest import RunVerb
from tests.support.local_service import LocalService, administered_service
from tests.support.servers import running
from yt8m_ray.cli.main import call
from yt8m_ray.errors import ConfigError


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> LocalService:
    return administered_service(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def url(service: LocalService) -> Iterator[str]:
    with running(build_api(service)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def token(service: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YT8M_ADMIN_TOKEN", "the-token")
    service.changes.clear()


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["status"], []),
        (["promote", "b"], [Promote("b")]),
        (["canary", "b", "--share", "0.1"], [Canary("b", 0.1)]),
        (["canary", "--share", "0"], [Canary()]),
        (["finish"], [Promote()]),
        (["rollback"], [Rollback()]),
    ],
)
def test_stdout_is_the_releases_after_the_change(
    service: LocalService,
    url: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    changes: list[Change],
) -> None:
    call(["release", *arguments, "--url", url])
    assert json.loads(capsys.readouterr().out) == {"release": {"number": len(changes)}}
    assert service.changes == changes


def test_the_token_may_lie_in_a_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YT8M_ADMIN_TOKEN")
    (tmp_path / "token").write_text("the-token\n")
    call(["release", "status", "--url", url, "--token-file", str(tmp_path / "token")])
    with pytest.raises(ConfigError, match="YT8M_ADMIN_TOKEN or --token-file, found none"):
        call(["release", "status", "--url", url])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["promote"],
        ["canary", "b"],
        ["rollback", "b"],
        ["status", "--share", "1"],
        ["delete"],
        ["promote", "a", "b"],
    ],
)
def test_a_mistake_in_the_arguments_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises((SystemExit, ConfigError)) as ended:
        call(["release", *arguments])
    # A command ends with 2 for a ConfigError too.
    assert getattr(ended.value, "code", 2) == 2


def test_as_a_command_a_refusal_is_exit_code_1_and_one_sentence(url: str, run_verb: RunVerb) -> None:
    refused = run_verb("release", "promote", "broken", "--url", url, YT8M_ADMIN_TOKEN="the-token")
    assert (refused.code, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"error: {url}/v1/admin/promote: 409: refused, nothing was changed: broken: no such folder\n"
    )
    asked = run_verb("release", "status", "--url", url, YT8M_ADMIN_TOKEN="the-token")
    assert (asked.code, json.loads(asked.stdout), asked.stderr) == (0, {"release": {"number": 0}}, "")
    mistaken = run_verb("release", "status", "--url", "127.0.0.1:8000", YT8M_ADMIN_TOKEN="the-token")
    assert (mistaken.code, mistaken.stderr.count("\n")) == (2, 1)
