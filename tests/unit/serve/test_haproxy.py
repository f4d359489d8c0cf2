"""The wrapper that Ray Serve starts as its HAProxy, and the environment that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from serve.haproxy_environment import WRAPPER, bundled_binary, haproxy_environment

# As Ray 2.60 writes it, shortened; the section that serves requests may listen wherever the operator says.
CONFIG = """\
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    option httplog
    errorfile 502 /somewhere/500.http
    errorfile 503 /somewhere/500.http
    errorfile 504 /somewhere/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind *:8000
    default_backend default_backend
backend default_backend
    http-request return status 404
listen stats
  bind *:8404
  stats enable
"""


def wrap(config: Path, binary: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(WRAPPER), *arguments, "-f", str(config)],
        env={**os.environ, "YT8M_HAPROXY_BINARY": binary},
        capture_output=True,
        text=True,
        check=False,
    )


def test_pages_for_operators_listen_on_loopback_and_errors_keep_their_status(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)

    for _ in range(2):  # Ray may start it again on the file that was changed already
        found = wrap(config, "echo", "-db")

    assert found.stdout.split() == ["-db", "-f", str(config)]
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert [line for line in lines if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind *:8000",
        "bind 127.0.0.1:8404",
    ]
    errors = [line.split() for line in lines if line.startswith("errorfile")]
    assert [(code, Path(path).name) for _, code, path in errors] == [(c, f"{c}.http") for c in ("502", "503", "504")]


def test_haproxy_itself_accepts_the_changed_file_and_its_errors(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)

    found = wrap(config, bundled_binary(), "-c")

    assert found.returncode == 0, found.stderr
    assert "timeout http-request 10s" in config.read_text()


def test_the_environment_is_what_a_shell_evaluates() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "serve.haproxy_environment"],
        cwd=WRAPPER.parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shell = ["sh", "-c", f"{printed}\nprintenv RAY_SERVE_HAPROXY_RETRY_ON RAY_SERVE_HAPROXY_BINARY_PATH"]

    found = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()

    assert found == [haproxy_environment()["RAY_SERVE_HAPROXY_RETRY_ON"], str(WRAPPER)]
