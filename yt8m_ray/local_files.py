"""Local files that may be anything: opened without waiting, and read up to a bound."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

# Of a config, a manifest or another document: a manifest of all 3,844 shards of YouTube-8M has 0.9 MB.
MOST_DOCUMENT_BYTES = 16 << 20

_KINDS = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


class NotAFileError(OSError):
    """A path of something other than a regular file, or of a file that is too large."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def regular_only(path: str, flags: int) -> int:
    """Opens a regular file at once: the `opener` of `open`, for reading.

    Raises:
        NotAFileError: the path is a pipe, a socket or a device.
        OSError: it is nothing, a folder, or not readable.
    """
    # Opening a named pipe waits for a writer, and opening a device may act on it.
    check_regular(path)
    # Not waiting either for a pipe that has replaced the file since: it reads as empty.
    return os.open(path, flags | os.O_NONBLOCK)


def check_regular(path: str | Path) -> None:
    """Checks a path for a library that opens it; errors as in `regular_only`."""
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise NotAFileError(errno.EINVAL, f"expected a regular file, found a {_KINDS[kind]}", str(path))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file by what `write` makes aside: there is the old one or the new one, never a part."""
    aside = path.with_name(path.name + ".tmp")
    try:
        write(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_document(path: str | Path, *, most_bytes: int = MOST_DOCUMENT_BYTES) -> bytes:
    """Returns the content of a small file; NotAFileError where it is larger than `most_bytes` or no regular file."""
    with open(path, "rb", opener=regular_only) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        found = max(os.stat(path).st_size, len(content))
        raise NotAFileError(errno.EFBIG, f"expected at most {most_bytes} bytes, found {found}", str(path))
    return content
