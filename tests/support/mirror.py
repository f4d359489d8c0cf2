"""A mirror of YouTube-8M on this machine: the published layout, with faults on demand."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections import defaultdict
from types import TracebackType
from typing import Self

from tests.support.faulty_server import FaultyHandler

PARTITION = "2/frame/train"
PLAN_PATH = "/2/download_plans/frame_train.json"


class Mirror:
    """Serves `files` by name and notes the requests.

    Attributes:
        files: Their bytes, by name.
        faults: What is wrong with the next answers for a name, first to last; the last one stays if `is_lasting`.
        requests: (name, Range header or None) of every request for a file, in their order.
        plan: The plan's document; None answers 404.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.is_lasting = False
        self.requests: list[tuple[str, str | None]] = []
        self.plan: bytes | None = json.dumps(
            {"files": {name: hashlib.md5(data).hexdigest() for name, data in files.items()}}
        ).encode()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"mirror": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def requested(self, name: str) -> list[str | None]:
        """Returns the Range of each request for a file."""
        return [span for requested, span in self.requests if requested == name]

    def next_fault(self, name: str) -> str:
        faults = self.faults[name]
        if not faults:
            return ""
        return faults[0] if self.is_lasting and len(faults) == 1 else faults.pop(0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(FaultyHandler):
    mirror: Mirror

    def do_GET(self) -> None:  # noqa: N802 - the name that the base class calls
        if self.path == PLAN_PATH:
            self._answer(404 if self.mirror.plan is None else 200, self.mirror.plan or b"")
            return
        name = self.path.removeprefix(f"/{PARTITION}/")
        span = self.headers["Range"]
        if name not in self.mirror.files:
            self._answer(404, b"")
            return
        self.mirror.requests.append((name, span))
        fault = self.mirror.next_fault(name)
        if fault in ("503", "429", "404"):
            self._answer(int(fault), b"sorry")
            return
        if fault == "reset":
            self.reset()
            return
        data = self.mirror.files[name]
        if fault == "wrong":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "short":
            data = data[: len(data) // 2]
        start = 0
        if span and "no range" not in fault:
            (first,) = re.fullmatch(r"bytes=([0-9]+)-", span).groups()  # type: ignore[union-attr]
            start = int(first)
        if start >= len(data):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        if fault == "wrong range":
            start = 0
        headers = (
            {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if span and "no range" not in fault else {}
        )
        self._answer(206 if headers else 200, data[start:], headers, fault)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if "cut" in fault:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if "reset" in fault:
                self.reset()
            self.close_connection = True
            return
        if fault == "silent":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(1)
            self.close_connection = True
            return
        is_slow = fault == "slow"
        step = max(len(body) // 50, 1) if is_slow else max(len(body), 1)
        for first in range(0, len(body), step):
            self.wfile.write(body[first : first + step])
            time.sleep(0.1 if is_slow else 0)
