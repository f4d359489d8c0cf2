"""The HTTP application behind a real server on loopback, and a client that sends and reads at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from serve.http.api import build_api
from tests.support.local_service import LocalService
from tests.support.servers import running


@contextlib.contextmanager
def serving(service: LocalService) -> Iterator[int]:
    """Serves it on a free port, which is yielded."""
    with running(build_api(service)) as port:
        try:
            yield port
        finally:
            service.close()


class Upload:
    """A POST whose body is sent in chunks, and whose answer can be read meanwhile.

    Args:
        port: Of the server.
        path: With its query.
        headers: Beside those of the framing.
        buffer_bytes: What the client's side of the connection holds unread; None leaves it to the system.
    """

    def __init__(self, port: int, path: str, headers: dict[str, str], *, buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(60)
        if buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.connect(("127.0.0.1", port))
        lines = [f"POST {path} HTTP/1.1", "host: localhost", "transfer-encoding: chunked"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, part: bytes) -> None:
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(part), part))

    def finish(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def response(self) -> http.client.HTTPResponse:
        """Returns the answer as soon as its headers are there."""
        response = http.client.HTTPResponse(self.socket, method="POST")
        response.begin()
        return response

    def close(self) -> None:
        self.socket.close()


def upload(port: int, path: str, parts: Iterable[bytes], headers: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """Returns the status and the lines of an answer that is read while the parts are sent."""
    request = Upload(port, path, headers)

    def send() -> None:
        with contextlib.suppress(OSError):  # the server need not read what it refused
            for part in parts:
                request.send(part)
            request.finish()

    sending = threading.Thread(target=send)
    sending.start()
    response = request.response()
    lines = [json.loads(line) for line in response]
    request.close()
    sending.join(30)
    return response.status, lines


def wait_until(is_true: Callable[[], bool], *, seconds: float = 20) -> None:
    """Waits for what another thread does."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
