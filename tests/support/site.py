"""The service behind a server on loopback, and its page in a headless Chromium."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from serve.http.api import build_api
from tests.support.chromium import Page, open_page
from tests.support.local_service import LocalService
from tests.support.servers import running
from yt8m_ray.data.format.example import encode_sequence_example

_REFUSED = "Failed to load resource"  # what a console says of an answer such as 422, which the page shows


@dataclass(frozen=True)
class Site:
    """The service on a port, and the page in a browser."""

    page: Page
    url: str
    service: LocalService

    def open(self, path: str = "") -> Page:
        """Returns the page, loaded anew with an empty session."""
        self.page.send("Page.navigate", url="about:blank")
        self.page.wait_for("location.href === 'about:blank'")
        self.page.requests.clear()
        self.page.complaints.clear()
        self.page.emulate(width=1200)
        self.page.send("Page.navigate", url=f"{self.url}/{path}")
        self.page.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
        return self.page

    def assert_quiet(self, *, refused: int = 0) -> None:
        """Asserts that every request went to the service, and that the console has no word but of refused requests."""
        assert {urlsplit(url).netloc for url in self.page.requests} == {urlsplit(self.url).netloc}
        assert [text for text in self.page.complaints if _REFUSED not in text] == []
        assert len(self.page.complaints) == refused, self.page.complaints


@contextlib.contextmanager
def open_site(program: str, service: LocalService, folder: Path) -> Iterator[Site]:
    """Serves and opens a service for the `with` block; `folder` takes the browser's profile."""
    with running(build_api(service)) as port, open_page(program, folder) as page:
        yield Site(page, f"http://127.0.0.1:{port}", service)


def clip(name: str, num_frames: int) -> bytes:
    """Returns a record of the features of a tiny model."""
    generator = np.random.default_rng(num_frames)
    rgb, audio = (generator.integers(0, 256, (num_frames, size), np.uint8) for size in (8, 4))
    return encode_sequence_example({"id": [name.encode()]}, {"rgb": rgb, "audio": audio})


def count(page: Page, selector: str) -> int:
    """Returns how many elements there are."""
    number: int = page.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length")
    return number


def text(page: Page, selector: str) -> str:
    """Returns the text of an element as it is shown, the empty string where there is none."""
    found: str = page.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
    return found
