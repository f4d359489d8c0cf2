"""An operator's requests to a running service: which models answer, and changes of that."""

from __future__ import annotations

from typing import Any

import requests

from yt8m_ray.errors import ConfigError


class ServiceError(RuntimeError):
    """A request that a service refused or did not answer; the message says why, in the service's own words if any."""


class ServiceClient:
    """A service and the token of an operator; ConfigError unless the URL is one of HTTP."""

    def __init__(self, url: str, token: str, *, timeout_s: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url: expected http://... or https://..., found {url!r}")
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"}
        self._timeout_s = timeout_s

    def releases(self) -> dict[str, Any]:
        """Returns which models answer; ServiceError if the service refuses or does not answer."""
        return self._ask("GET", "releases", None)

    def change(self, what: str, fields: dict[str, object]) -> dict[str, Any]:
        """Makes a change (promote, canary or rollback) and returns which models answer after it; ServiceError as above.

        The fields are `model` and `share`, if they are given.
        """
        return self._ask("POST", what, fields)

    def _ask(self, method: str, what: str, fields: dict[str, object] | None) -> dict[str, Any]:
        url = f"{self._url}/v1/admin/{what}"
        try:
            with requests.Session() as session:
                # Else ~/.netrc would take the place of the token.
                session.trust_env = False
                # Without redirections: the token is for this host alone.
                answer = session.request(
                    method, url, json=fields, headers=self._headers, timeout=self._timeout_s, allow_redirects=False
                )
        except requests.Timeout:
            raise ServiceError(f"{url}: no answer within {self._timeout_s:g} s; a change goes on: see status") from None
        except requests.RequestException as error:
            raise ServiceError(f"{url}: no answer: {type(error).__name__}") from None
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.status_code == requests.codes.ok and isinstance(document, dict):
            return document
        raise ServiceError(f"{url}: {_reason(answer.status_code, document)}")


def _reason(status: int, document: object) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else "expected the service, found something else"
    # A service without tokens of operators has no such route, and says so in general words.
    if status == requests.codes.not_found and "nothing here" in str(message):
        message = "the service has no administration: args.admin_tokens_file is not set"
    return f"{status}: {message}"
