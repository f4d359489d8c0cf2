"""The page at / and its files, under a policy by which a browser loads nothing else."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

FOLDER = Path(__file__).parents[2] / "page"
ASSETS_PATH = "/page"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page loads its own files alone, and no other site may show it in a frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # A browser asks each time whether a file has changed: the page and its scripts must be of one version.
    "cache-control": "no-cache",
}


def add_page_routes(api: FastAPI) -> None:
    """Adds a route for each file, which is read now. They need no token: the page itself asks for one."""
    for path in sorted(path for path in FOLDER.iterdir() if path.suffix in _MEDIA_TYPES):
        route = "/" if path.name == "index.html" else f"{ASSETS_PATH}/{path.name}"
        _add_file(api, route, path.read_bytes(), _MEDIA_TYPES[path.suffix])


def _add_file(api: FastAPI, route: str, content: bytes, media_type: str) -> None:
    @api.get(route, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)
