"""What the HTTP servers of the tests share that break off on purpose."""

from __future__ import annotations

import contextlib
import http.server
import socket
import struct
import time


class FaultyHandler(http.server.BaseHTTPRequestHandler):
    """A handler that is silent, keeps connections open, and bears that one is closed under it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client, or a fault, closed the connection
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def reset(self) -> None:
        """Ends the connection with an error for the client."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.05)  # what was sent arrives before the reset discards it
        self.connection.close()
        self.close_connection = True
