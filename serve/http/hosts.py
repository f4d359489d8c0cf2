"""The Host header: a request by a name that is not this service's is refused."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import CLOSE
from serve.http.error_handlers import error_response

_ANY = "*"
_HOST = re.compile(r"(?P<name>[^:\[\]]+|\[[0-9A-Fa-f:.]+\])(:\d*)?")


class HostCheck:
    """ASGI middleware that answers 421 to names of other hosts, against DNS rebinding; the name `*` accepts all."""

    # The owner of a site can point its name at 127.0.0.1 once its page is loaded; the browser then takes the page and
    # this service for one site, and lets the page read all answers. Such a request names that site in Host. Nobody can
    # point an address elsewhere, so probes and scrapers that use one are answered. Starlette's TrustedHostMiddleware
    # answers 400 in plain text, takes no addresses, and cuts a name at the first colon, which IPv6 addresses have.

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"] if scope["type"] == "http" else ()
        given = [value.decode("latin-1") for key, value in headers if key == b"host"]
        if _ANY in self._names or all(self._is_ours(host) for host in given):
            await self._app(scope, receive, send)
            return
        valid = ", ".join([*sorted(self._names), "addresses"])
        message = f"host: {', '.join(given)[:60]!r} is not this service; valid: {valid}; others: args.allowed_hosts"
        response = error_response(Request(scope), 421, message, headers=CLOSE)
        await response(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"].lower().removesuffix(".")
        if name in self._names:
            return True
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
        return False
