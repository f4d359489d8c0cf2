"""The environment of a Ray cluster on this machine that only its user can use.

    eval "$(python -m yt8m_ray.local_cluster)"    # then `ray start --head`

The verbs set the same variables themselves. Ray reads some of them when it is imported.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shlex
import stat
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

LOOPBACK = {
    # Ray's switch for "the address of this node is 127.0.0.1": all its servers listen there. `_node_ip_address` and
    # `--node-ip-address` do not do that: Ray 2.60 replaces 127.0.0.1 in them by the machine's address in the network.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"

LOOPBACK_ONLY = {
    **LOOPBACK,
    # Without it both choose an interface of the network.
    "GLOO_SOCKET_IFNAME": _INTERFACE,
    "NCCL_SOCKET_IFNAME": _INTERFACE,
    # Other users of this machine reach 127.0.0.1 too.
    "RAY_AUTH_MODE": "token",
}


def configure_environment(*variables: Mapping[str, str]) -> None:
    """Sets what a framework reads from the environment of this process, but for what the user has set."""
    for several in variables:
        for name, value in several.items():
            os.environ.setdefault(name, value)


def import_environment() -> dict[str, str]:
    """Returns the variables to set before Ray is imported, for the cluster that RAY_ADDRESS names."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        return LOOPBACK_ONLY
    # Without LOOPBACK, Ray replaces 127.0.0.1 by the machine's address in the network. `auto` may find a local cluster.
    return LOOPBACK if address == "auto" or _is_loopback(address) else {}


def local_environment() -> dict[str, str]:
    """Returns all variables of a local cluster, those of the environment unchanged; creates private folder and token.

    OSError if the temporary folder cannot be written, or the folder in it belongs to another user.
    """
    variables = {**LOOPBACK_ONLY, "RAY_TMPDIR": os.environ.get("RAY_TMPDIR") or str(private_folder("ray"))}
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        variables["RAY_AUTH_TOKEN_PATH"] = str(token_file())
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def private_folder(name: str) -> Path:
    """Returns NAME-UID in the temporary folder, for this user alone; OSError if it is another's or cannot be made."""
    # Ray makes its folders writable for everybody: another user could replace sockets and code of a session.
    path = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    # Not `stat`: another user may have put a link to a folder of this user there.
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise OSError(f"{path}: expected a folder of this user, found something of user {status.st_uid}; set TMPDIR")
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


def token_file() -> Path:
    """Returns the file of this user's token, created if missing, which only this user can read."""
    try:
        # Ray's own file, so that `ray get-auth-token` prints it.
        return _token_in(Path.home() / ".ray")
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return _token_in(private_folder("ray"))


def _token_in(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "auth_token"
    with contextlib.suppress(FileNotFoundError):
        # Ray itself writes it for everybody to read.
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        if path.read_text(encoding="utf-8").strip():
            return path
        path.unlink()
    # Written aside with mode 0600, and linked when whole: of two commands that start at once, one is first.
    with tempfile.NamedTemporaryFile("w", dir=folder, encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
    return path


def _is_loopback(address: str) -> bool:
    with contextlib.suppress(ValueError):
        host = urllib.parse.urlsplit(address if "://" in address else f"//{address}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


if __name__ == "__main__":
    for name, value in local_environment().items():
        print(f"export {name}={shlex.quote(value)}")
