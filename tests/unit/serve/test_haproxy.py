"""The wrapper that Ray Serve starts as its HAProxy, and the environment that names it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from serve.haproxy.environment import WRAPPER, bundled_binary, haproxy_environment

# As Ray 2.60 writes it, shortened; the section that serves requests may listen wherever the operator says.
CONFIG = """\
global
    stats socket /somewhere/admin.sock mode 666 level admin expose-fd listeners
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
backend http-yt8m
    log global
    # Enable HTTP connection reuse for better performance
    http-reuse always
    server replica-1 127.0.0.1:30000 check observe layer4 error-limit 3 on-error mark-down
    # Fallback to head node's Serve proxy when no ingress replicas are available
    server fallback 127.0.0.1:8500 check backup
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
    assert "stats socket /somewhere/admin.sock mode 600 level admin expose-fd listeners" in lines
    errors = [line.split() for line in lines if line.startswith("errorfile")]
    assert [(code, Path(path).name) for _, code, path in errors] == [(c, f"{c}.http") for c in ("502", "503", "504")]


def test_haproxy_itself_accepts_the_changed_file_and_its_errors(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)

    found = wrap(config, bundled_binary(), "-c")

    assert found.returncode == 0, found.stderr
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert "timeout http-request 10s" in lines
    assert [line.split()[1] for line in lines if line.startswith("server ")] == ["replica-1"]
    rules = [line.split()[1] for line in lines[lines.index("backend http-yt8m") :] if line.startswith("http-request")]
    assert rules == ["set-header", "set-var(txn.yt8m_most)", "set-log-level", "return", "wait-for-body", "set-header"]


def test_what_is_looked_for_is_in_the_file_that_ray_writes() -> None:
    spec = importlib.util.find_spec("ray")  # found, not imported
    assert spec is not None and spec.origin is not None
    template = (Path(spec.origin).parent / "serve/_private/haproxy_templates.py").read_text(encoding="utf-8")

    for line in (
        "    stats socket {{ config.socket_path }} mode 666 level",
        "frontend prometheus\n    bind :{{",
        "frontend http_frontend\n",
        "listen stats\n  bind *:{{",
        "    errorfile 502 {{",
        "    option httplog\n",
        "    # Enable HTTP connection reuse",
        " check backup\n",
    ):
        assert line in template, line


def test_what_a_backend_has_no_room_for_is_refused_before_its_body_is_sent(tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "haproxy.cfg"
    text = CONFIG.replace("bind *:8000", f"bind 127.0.0.1:{port}\n    use_backend http-yt8m if {{ path_beg /v1 }}")
    text = re.sub(r"stats socket .*", "", text)  # nobody gives it orders here
    for page in (":9101", "*:8404"):
        text = text.replace(f"bind {page}", f"bind {page.partition(':')[0]}:{free_port()}")
    config.write_text(text.replace(" check observe layer4 error-limit 3 on-error mark-down", ""))
    environment = {**os.environ, "YT8M_HAPROXY_BINARY": bundled_binary(), "YT8M_HAPROXY_REQUESTS": "0"}
    command = [str(WRAPPER), "-db", "-f", str(config)]

    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as proxy:
        try:
            answers = [
                ask(port, b"POST /v1/predict HTTP/1.1\r\nhost: a\r\n%scontent-length: 400000\r\n\r\n" % given)
                for given in (b"", b'x-request-id: "mine" 100%\r\n')
            ]
        finally:
            proxy.kill()

    identities = []
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == b"503" and b"retry-after: 1" in head.lower()
        error = json.loads(body)["error"]
        assert error["code"] == "overloaded"
        assert f"x-request-id: {error['request_id']}".encode() in head.lower()
        identities.append(error["request_id"])
    assert re.fullmatch("[0-9a-f-]{36}", identities[0]) and identities[1] == '"mine" 100%'


def ask(port: int, data: bytes) -> bytes:
    """Returns what is answered, as soon as somebody listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(data)
                return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_the_environment_is_what_a_shell_evaluates() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "serve.haproxy.environment"],
        cwd=WRAPPER.parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shell = ["sh", "-c", f"{printed}\nprintenv RAY_SERVE_HAPROXY_RETRY_ON RAY_SERVE_HAPROXY_BINARY_PATH"]

    found = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()

    assert found == [haproxy_environment()["RAY_SERVE_HAPROXY_RETRY_ON"], str(WRAPPER)]
