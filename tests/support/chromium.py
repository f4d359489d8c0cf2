"""A headless Chromium and one page in it, driven over the DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever it asks for, it finds this host alone
)
WAIT_S = 120.0  # a shared machine; what works takes a second


def find_chromium() -> str | None:
    """Returns the program, None where none is installed."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """A tab.

    Attributes:
        requests: URLs that it asked for.
        complaints: Errors and warnings of its console: exceptions, refused resources, violations of its policy.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._connection = connection
        self._last_id = 0
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the result of a command; what happens meanwhile is written down."""
        self._last_id += 1
        self._connection.send(json.dumps({"id": self._last_id, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=WAIT_S))
            if message.get("id") == self._last_id:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message.get("method", ""), message.get("params", {}))

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression, awaited."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Returns the value of an expression once it is truthy."""
        deadline = time.monotonic() + WAIT_S
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"still not: {expression}; complaints: {self.complaints}"
            time.sleep(0.05)
        return value

    def choose_file(self, selector: str, path: Path) -> None:
        """Does what choosing a file in a dialogue does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drop_file(self, selector: str, path: Path) -> None:
        """Drags a file onto the middle of an element and lets go."""
        box = f"JSON.stringify(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        place = json.loads(self.evaluate(box))
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str, code: int) -> None:
        """Presses a key that writes nothing, or Enter."""
        typed = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def emulate(self, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Sets the size of the window and whether the reader likes light or dark."""
        is_phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def save_screenshot(self, path: Path) -> None:
        """Writes a PNG of the whole page, whatever of it is in the window."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(parameters["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])


@contextlib.contextmanager
def open_page(program: str, folder: Path) -> Iterator[Page]:
    """Starts a browser with an empty profile in `folder` and yields its one page; ends it and what it started."""
    profile, log = folder / "profile", folder / "chromium.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=output, stderr=output
        )
    try:
        port = _port(profile / "DevToolsActivePort", process, log)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=WAIT_S) as answer:
            (target,) = [each for each in json.load(answer) if each["type"] == "page"]
        address = target["webSocketDebuggerUrl"]
        with connect(address, max_size=None, proxy=None, open_timeout=WAIT_S) as connection:
            page = Page(connection)
            yield page
            page.send("Browser.close")  # unlike a signal, it ends the helpers of the browser too
        process.wait(WAIT_S)
    finally:
        process.kill()
        process.wait()


def _port(path: Path, process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + WAIT_S
    while not (path.is_file() and (lines := path.read_text().splitlines())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return int(lines[0])
