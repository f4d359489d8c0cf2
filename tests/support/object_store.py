"""An object store on this machine: moto, and before it a server that forwards requests and makes faults on demand."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from types import TracebackType
from typing import Self

import boto3
from moto.server import ThreadedMotoServer

from tests.support.faulty_server import FaultyHandler

BUCKET = "shards"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a client of the store needs, besides AWS_ENDPOINT_URL."""

_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{code} says the test.</Message><RequestId>1</RequestId></Error>"""
_CODES = {"500": "InternalError", "503": "SlowDown", "403": "SignatureDoesNotMatch"}
_SILENCE_S = 60


class ObjectStore:
    """Holds objects in one bucket; clients see it at `url`.

    Attributes:
        faults: What is wrong with the next answers to GET requests for objects, first to last: a status, "cut",
            "reset", "silent", "short" (a sound answer of half the bytes); "" is a good answer.
        always: What is wrong with every answer, of any kind.
        requests: (method, path, Range or None) of all requests, in their order.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.always = ""
        self.requests: list[tuple[str, str, str | None]] = []
        self.is_closing = threading.Event()
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._proxy.daemon_threads = True
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._proxy.server_port}"

    @property
    def moto(self) -> tuple[str, int]:
        host, port = self._moto.get_host_and_port()
        return host, port

    def put(self, key: str, body: bytes) -> str:
        """Stores an object and returns its URI."""
        self._client.put_object(Bucket=BUCKET, Key=key, Body=body)
        return f"s3://{BUCKET}/{key}"

    def ranges(self, key: str) -> list[str | None]:
        """Returns the Range of each GET for an object."""
        return [span for method, path, span in self.requests if (method, path) == ("GET", f"/{BUCKET}/{key}")]

    def heal(self) -> None:
        """Forgets faults and requests."""
        self.faults.clear()
        self.requests.clear()
        self.always = ""

    def __enter__(self) -> Self:
        self._moto.start()
        self._thread.start()
        host, port = self.moto
        self._client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_closing.set()
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()


class _Handler(FaultyHandler):
    store: ObjectStore

    def do_GET(self) -> None:  # noqa: N802 - the name that the base class calls
        is_object = self.path.count("/") > 1 and "?" not in self.path
        self.store.requests.append((self.command, self.path, self.headers["Range"]))
        fault = self.store.always
        if not fault and self.command == "GET" and is_object and self.store.faults:
            fault = self.store.faults.pop(0)
        if fault in _CODES:
            self._answer(int(fault), {"Content-Type": "application/xml"}, _ERROR.format(code=_CODES[fault]).encode())
        elif fault == "reset":
            self.reset()
        elif fault == "silent":
            self.store.is_closing.wait(_SILENCE_S)
            self.close_connection = True
        else:
            status, headers, body = self._forward()
            if fault == "short":
                body = body[: len(body) // 2]
                headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
            self._answer(status, headers, body, is_cut=fault == "cut")

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_PUT(self) -> None:  # noqa: N802
        self.do_GET()

    def do_POST(self) -> None:  # noqa: N802
        self.do_GET()

    def do_DELETE(self) -> None:  # noqa: N802
        self.do_GET()

    def _forward(self) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(*self.store.moto)
        with contextlib.closing(upstream):
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("expect", "transfer-encoding")
            }
            upstream.request(self.command, self.path, body=self._sent() or None, headers=headers)
            response = upstream.getresponse()
            body = response.read()
        dropped = ("connection", "transfer-encoding", "date", "server")
        return response.status, {k: v for k, v in response.getheaders() if k.lower() not in dropped}, body

    def _sent(self) -> bytes:
        """Returns the body of the request."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, is_cut: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self.close_connection = True
