"""The token, the folder and the variables of a cluster that only its user gets into."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from yt8m_ray.local_cluster import (
    LOOPBACK,
    configure_environment,
    import_environment,
    local_environment,
    private_folder,
    token_file,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder and a temporary folder of the test's own, and an environment that says nothing of Ray."""
    for name in [name for name in os.environ if name.startswith(("RAY_", "GLOO_", "NCCL_"))]:
        monkeypatch.delenv(name)
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "home"


def mode(path: Path) -> str:
    return f"{path.lstat().st_mode & 0o777:o}"


def test_a_new_token_is_for_its_user_alone(home: Path) -> None:
    path = token_file()

    assert path == home / ".ray/auth_token"
    assert (mode(path.parent), mode(path)) == ("700", "600")
    assert len(path.read_text()) >= 32
    assert os.listdir(path.parent) == ["auth_token"]


def test_the_token_that_ray_wrote_for_everybody_to_read_stays_and_is_made_private(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("of an earlier run")
    (home / ".ray/auth_token").chmod(0o644)

    path = token_file()

    assert (path.read_text(), mode(path)) == ("of an earlier run", "600")


def test_an_empty_token_is_replaced(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("\n")

    assert len(token_file().read_text()) >= 32


@pytest.mark.parametrize("home_folder", ["/dev/null", "/proc/nobody"])
def test_without_a_home_that_can_be_written_the_token_is_in_the_private_folder(
    monkeypatch: pytest.MonkeyPatch, home_folder: str
) -> None:
    monkeypatch.setenv("HOME", home_folder)

    path = token_file()

    assert path.parent == private_folder("ray")
    assert (mode(path.parent), mode(path)) == ("700", "600")
    assert token_file().read_text() == path.read_text()


def test_commands_that_start_at_once_share_one_token(home: Path) -> None:
    program = "from yt8m_ray.local_cluster import token_file; print(token_file().read_text())"

    commands = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(8)]
    tokens = {command.communicate()[0] for command in commands}

    assert tokens == {(home / ".ray/auth_token").read_bytes() + b"\n"}


def test_a_private_folder_that_others_could_enter_is_closed() -> None:
    path = private_folder("ray")
    path.chmod(0o777)

    assert mode(private_folder("ray")) == "700"


def test_a_private_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    private_folder("ray").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"temporary/ray-{os.getuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match=rf"ray-{os.getuid()}: expected a folder of this user, found something of user"):
        private_folder("ray")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_private_folder_of_somebody_else_is_refused() -> None:
    os.chown(private_folder("ray"), 12345, -1)

    with pytest.raises(OSError, match="expected a folder of this user, found something of user 12345"):
        private_folder("ray")


def test_a_cluster_of_this_machine_is_on_loopback_behind_the_token_in_a_private_folder(home: Path) -> None:
    variables = local_environment()

    assert variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_AUTH_TOKEN_PATH"] == str(home / ".ray/auth_token")
    assert variables["RAY_TMPDIR"] == str(private_folder("ray"))


def test_what_the_user_has_set_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": "/elsewhere", "GLOO_SOCKET_IFNAME": "eth0"}
    for name, value in {**given, "RAY_AUTH_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)

    variables = local_environment()

    assert {name: variables[name] for name in given} == given
    assert "secret" not in variables.values()
    assert not (home / ".ray").exists()


@pytest.mark.parametrize(
    ("address", "is_local", "is_loopback"),
    [
        (None, True, True),
        ("", True, True),
        ("local", True, True),
        ("127.0.0.1:6379", False, True),
        ("localhost:6379", False, True),
        ("[::1]:6379", False, True),
        ("auto", False, True),
        ("10.0.0.1:6379", False, False),
        ("head:6379", False, False),
        ("[::1", False, False),
    ],
)
def test_only_a_cluster_of_this_machine_is_kept_to_loopback(
    monkeypatch: pytest.MonkeyPatch, address: str | None, is_local: bool, is_loopback: bool
) -> None:
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)

    variables = import_environment()

    assert ("RAY_AUTH_MODE" in variables) == is_local
    assert (variables.items() >= LOOPBACK.items()) == is_loopback


def test_a_variable_that_the_user_has_set_is_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)

    configure_environment({"RAY_AUTH_MODE": "token"}, {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10"})

    assert (os.environ["RAY_AUTH_MODE"], os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("disabled", "10")


def test_no_import_sets_a_variable() -> None:
    root = Path(__file__).resolve().parents[2]
    for path in [path for folder in ("yt8m_ray", "jobs", "serve") for path in (root / folder).rglob("*.py")]:
        # What stands below `if` at the top of a module is for programs: `python -m jobs.VERB`.
        definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If | ast.ImportFrom
        top = [node for node in ast.parse(path.read_text()).body if not isinstance(node, definitions)]
        assert not [node for node in top if re.search(r"os\.environ|configure_environment\(", ast.unparse(node))], path


def test_a_shell_can_take_the_variables_over(home: Path) -> None:
    program = f'eval "$({sys.executable} -m yt8m_ray.local_cluster)" && cat "$RAY_AUTH_TOKEN_PATH"'

    found = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout == (home / ".ray/auth_token").read_text()
