"""What an object store's error means, in one line: the AWS SDK's text -> an exception with the place and the remedy."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

# Of the texts `AWS Error ACCESS_DENIED during ...`, `AWS Error UNKNOWN (HTTP status 403) during ...`, and libcurl's.
_CODE = re.compile(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?")
_CURL = re.compile(r"curlCode: (\d+), ([^;]*)(?:; Details: (.*))?", re.DOTALL)

_REFUSED = {
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "INVALID_SIGNATURE",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
    "EXPIRED_TOKEN",
    "MISSING_AUTHENTICATION_TOKEN",
}
# The SDK has repeated these by itself, so that "try again later" is all there is to say.
_BUSY = {"INTERNAL_FAILURE", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "THROTTLING"}
# Proxy and host not found, no connection, time-out, TLS handshake, certificate. A time-out also ends a transfer that is
# too slow, and the text alone tells the two apart.
_CURL_UNREACHED = {5, 6, 7, 28, 35, 60}
_TOO_SLOW = "Operation too slow"


@contextlib.contextmanager
def explained(path: str, *, endpoint: str) -> Iterator[None]:
    """Turns the AWS SDK's errors in its block into short ones that begin with `path`; all others pass.

    Raises:
        PermissionError: the store refuses the credentials, or there are none.
        FileNotFoundError: there is no such bucket or key.
        ConnectionError: the store cannot be reached, or connections to it break, in every attempt.
        OSError: the store answers with an error, in every attempt.
    """
    try:
        yield
    except OSError as error:
        # pyarrow raises OSError for whatever went wrong; what that was stands in the text alone, over several lines.
        text = " ".join(str(error).split())
        code = _CODE.search(text)
        if code is None:
            raise
        raise _explain(path, endpoint, code[1], code[2], text) from error


def _explain(path: str, endpoint: str, code: str, status: str | None, text: str) -> OSError:
    if code in _REFUSED or status in ("401", "403"):
        return PermissionError(f"{path}: {endpoint} refuses access ({code}); {_credentials()}")
    if code == "NO_SUCH_BUCKET":
        return FileNotFoundError(f"{path}: no such bucket at {endpoint}")
    if code in ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND") or status == "404":
        return FileNotFoundError(f"{path}: no such object at {endpoint}")
    if code == "NETWORK_CONNECTION":
        return ConnectionError(f"{path}: {_connection_fault(endpoint, text)}")
    answer = code if status is None else f"{status} {code}"
    if code in _BUSY or (status or "").startswith("5"):
        return OSError(f"{path}: {endpoint} answers {answer} to every attempt; try again later")
    if code == "PERMANENT_REDIRECT" or status == "301":
        return OSError(f"{path}: the bucket is in another region; set AWS_REGION to it")
    return OSError(f"{path}: {endpoint} answers {answer}: {text.partition(': ')[2][:200]}")


def _credentials() -> str:
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return "it was asked with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    if file.exists():
        return f"it was asked with the credentials in {file}"
    return f"expected credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or {file}, found none"


def _connection_fault(endpoint: str, text: str) -> str:
    curl = _CURL.search(text)
    if curl is None:
        return f"connections to {endpoint} fail in every attempt: {text[-200:]}"
    reason = curl[3] or curl[2]
    if int(curl[1]) in _CURL_UNREACHED and _TOO_SLOW not in reason:
        return f"cannot reach {endpoint}: {reason}"
    return f"connections to {endpoint} break in every attempt: {reason}"
