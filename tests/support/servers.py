"""The HTTP application behind a real uvicorn on loopback, for what a TestClient cannot do: slow and broken clients."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI


@contextlib.contextmanager
def running(api: FastAPI) -> Iterator[int]:
    """Yields the port of a server that runs for the `with` block."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(api, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                thread.join(0.01)
                assert thread.is_alive(), "the server did not start"
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
