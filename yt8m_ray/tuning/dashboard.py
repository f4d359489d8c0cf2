"""The optuna-dashboard web page of a search, behind a guard: it shows trials, takes notes and stops running trials."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import logging
import re
import socket
import socketserver
import threading
import urllib.parse
import wsgiref.simple_server
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import optuna_dashboard
from optuna.trial import TrialState

from yt8m_ray.errors import ConfigError
from yt8m_ray.tuning.study_file import STUDY_FILE, study_storage

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_LOCK_TIMEOUT_S = 10.0
_MAX_BODY_BYTES = 1_000_000
_NOTE = re.compile(r"/api/studies/\d+(/\d+)?/note")
_TELL = re.compile(r"/api/trials/(\d+)/tell")
# Long attributes would push the button that stops a trial out of sight and make table rows as high as the window.
_STYLE = b"""<style>
main, main .MuiBox-root:last-child { min-width: 0; }
main .MuiBox-root:last-child p { white-space: normal; overflow-wrap: break-word; }
td:nth-child(n+3) { max-width: 16rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
</style></head>"""

_READ_ONLY = (
    "The study is the only record of the search, so this page changes nothing in it but notes and, to Fail, the state "
    "of a running trial, which stops it."
)


class Dashboard:
    """A page that is served until `close`; `url` opens the study."""

    def __init__(self, server: _Server, storage: optuna.storages.RDBStorage, url: str) -> None:
        self.url = url
        self._server, self._storage = server, storage
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="dashboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops serving; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._storage.remove_session()
        self._storage.engine.dispose()


def start_dashboard(folder: Path, *, port: int = 0, host: str = "127.0.0.1") -> Dashboard:
    """Serves the page of the search in a folder from a thread; the search may run in any process.

    Port 0 takes a free one; `host` is an address or name of this machine.

    Raises:
        ConfigError: there is no search, or the port is taken, or the host is not this machine's.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise ConfigError(f"{folder}: no search: {STUDY_FILE} is missing")
    storage = study_storage(path, timeout_s=_LOCK_TIMEOUT_S)
    try:
        server = (_IPv6Server if ":" in host else _Server)((host, port), _Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "expected 0 to 65535"
        raise ConfigError(f"dashboard: {host}:{port}: {reason}; give another port, or 0 for any") from None
    server.set_app(_Guard(storage, host))
    shown = f"[{host}]" if ":" in host else host
    return Dashboard(server, storage, f"http://{shown}:{server.server_port}/")


class _Guard:
    """The WSGI application in front of optuna-dashboard's; of what writes, it passes on notes and stops of trials."""

    # The study is the only record of a search, and optuna-dashboard lets anybody change it.
    def __init__(self, storage: optuna.storages.RDBStorage, host: str) -> None:
        self._storage = storage
        self._host = host
        self._app: WSGIApplication = optuna_dashboard.wsgi(storage)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            refusal = self._refuse(environ)
            if refusal is not None:
                status, sentence = refusal
                return _answer(start_response, status, {"reason": sentence})
            if environ["PATH_INFO"] in ("", "/"):
                (name, *_) = optuna.get_all_study_names(self._storage)
                place = f"/dashboard/studies/{self._storage.get_study_id_from_name(name)}"
                start_response("302 Found", [("Location", place), ("Content-Length", "0")])
                return [b""]
            is_amended = environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"].startswith("/dashboard")
            return (self._amended if is_amended else self._app)(environ, start_response)
        finally:
            self._storage.remove_session()  # the session is this thread's, which ends with the answer

    def _amended(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers with our style in a page, and with an empty document instead of none."""
        begun: list[Any] = []
        chunks = self._app(environ, lambda *arguments: begun.append(arguments))  # type: ignore[arg-type]
        content = b"".join(chunks).replace(b"</head>", _STYLE)
        status, headers, *_ = begun[0]
        if status.startswith("204"):  # optuna-dashboard 0.21 parses every answer as JSON, or shows a failure
            return _answer(start_response, "200 OK", {})
        others = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*others, ("Content-Length", str(len(content)))])
        return [content]

    def _refuse(self, environ: WSGIEnvironment) -> tuple[str, str] | None:
        """Returns (status, sentence) for a request that is refused, None for others."""
        address = environ.get("HTTP_HOST", "")
        if not self._is_ours(address):
            ours = ", ".join(dict.fromkeys(("localhost", "127.0.0.1", self._host)))
            return "403 Forbidden", f"This page is called {ours} and not {address}."
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].rstrip("/")
        if method in ("GET", "HEAD"):
            return None
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and urllib.parse.urlsplit(origin).netloc != address:
            return "403 Forbidden", f"A page of {origin} changes nothing here."
        if method == "PUT" and _NOTE.fullmatch(path):
            return None
        told = _TELL.fullmatch(path)
        if method != "POST" or told is None or _read_state(environ) != "FAIL":
            return "403 Forbidden", _READ_ONLY
        return self._refuse_stop(int(told[1]))

    def _refuse_stop(self, trial_id: int) -> tuple[str, str] | None:
        try:
            trial = self._storage.get_trial(trial_id)
        except KeyError:
            return "404 Not Found", "There is no such trial."
        if trial.state is not TrialState.RUNNING:
            return "409 Conflict", f"Trial {trial.number} is not running, so there is nothing to stop."
        return None

    def _is_ours(self, address: str) -> bool:
        # DNS rebinding brings requests here whose Host header names another machine.
        with contextlib.suppress(ValueError):
            name = urllib.parse.urlsplit(f"//{address}").hostname or ""
            if name in ("localhost", self._host.lower()):
                return True
            return ipaddress.ip_address(name).is_loopback
        return False


def _read_state(environ: WSGIEnvironment) -> str | None:
    """Returns the state that a request sets a trial to, and leaves its body to be read again."""
    with contextlib.suppress(ValueError):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length <= _MAX_BODY_BYTES:
            content = environ["wsgi.input"].read(length)
            environ["wsgi.input"] = io.BytesIO(content)
            body = json.loads(content)
            state = body.get("state") if isinstance(body, dict) else None
            return state.upper() if isinstance(state, str) else None
    return None


def _answer(start_response: StartResponse, status: str, document: dict[str, str]) -> list[bytes]:
    content = json.dumps(document).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # The base class asks the name service for this machine's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        logging.getLogger(__name__).debug(format, *args)
