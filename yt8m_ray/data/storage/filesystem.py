"""A path or URI -> its filesystem, opened once a process, and the files there."""

from __future__ import annotations

import errno
import fnmatch
import functools
import glob
import io
import os
import re
import time
import urllib.parse
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pyarrow.fs
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from yt8m_ray.data.storage.byte_stream import ByteStream, LocalFile
from yt8m_ray.data.storage.store_errors import explained

# Of a request: each costs some tens of milliseconds, however little it brings.
READ_AHEAD_BYTES = 4 << 20
# Tries of a request, with pauses of some 3 s together; the SDKs' own AWS_MAX_ATTEMPTS overrides it.
NUM_ATTEMPTS = 8
_CONNECT_TIMEOUT_S = 3.0
_SILENCE_TIMEOUT_S = 5.0

_LOCAL = LocalFileSystem()
# Kept, because pyarrow makes a client with connections of its own for every URI.
_others: dict[tuple[str, str, str], FileSystem] = {}
# Tries of a request that pyarrow takes for done, see `_ReadAhead`.
_NUM_OWN_ATTEMPTS = 4
_OWN_BACKOFF_S = 0.1
_MARK_BYTES = 16
_SMALL_READ_BYTES = 1 << 20
_LONG_ERROR = "Failed to flush response stream"

_QUERY_KEYS = ("endpoint_override", "region", "scheme")


class _Connection(NamedTuple):
    """What makes one connection to S3 unlike another; None is the SDK's own choice."""

    endpoint: str | None
    scheme: str | None
    region: str | None
    num_attempts: int


def from_uri(path: str) -> tuple[FileSystem, str]:
    """Returns the filesystem that a path or URI lies on, and the path inside it.

    S3 is where `?endpoint_override=HOST:PORT&scheme=http` in the URI says, else AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL
    or Amazon; its region is `?region=`, AWS_REGION, AWS_DEFAULT_REGION or the bucket's.

    Raises:
        ValueError: the URI is malformed.
        OSError: as `explained` says, here and below.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        return _LOCAL, os.path.abspath(path)
    rest, query = split_query(rest)
    place = rest.partition("/")[0]
    if scheme != "s3":
        filesystem, location = FileSystem.from_uri(path)
        return _others.setdefault((scheme, place, query), filesystem), location
    if not place or "@" in place:  # pyarrow's own form takes them; each message and log would show them
        raise ValueError(f"expected s3://BUCKET/KEY, found {'credentials in the URI' if place else repr(path)}")
    with explaining(path):
        return _open_s3(place, _connection(path)), rest


def open_stream(path: str) -> ByteStream:
    """Returns the bytes of a path or URI as they stand; those of an object store are read ahead in large pieces.

    Raises:
        FileNotFoundError, IsADirectoryError, NotAFileError, PermissionError: with the path.
    """
    filesystem, location = from_uri(path)
    if isinstance(filesystem, LocalFileSystem):
        try:
            return LocalFile(location)
        except OSError as error:
            error.filename = path  # as it was given
            raise
    with explaining(path):
        info = filesystem.get_file_info(location)
        if info.type == FileType.NotFound:
            _check_bucket(filesystem, location, path)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if info.type == FileType.Directory:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return _ReadAhead(filesystem.open_input_file(location), path, info.size)


def read_bytes(path: str) -> bytes:
    """Returns the content of a small file or object; errors as in `open_stream`."""
    # `readall` of a file would pass the check of `LocalFile` by.
    content, buffer = bytearray(), memoryview(bytearray(_SMALL_READ_BYTES))
    with open_stream(path) as stream:
        while count := stream.readinto(buffer):
            content += buffer[:count]
    return bytes(content)


def match_paths(pattern: str) -> list[str]:
    """Returns the local paths that a pattern with `*`, `?`, `[` and `**` matches."""
    # As far as it names what exists it is no pattern: `data[1]/*.tfrecord` is the shards in the folder `data[1]`.
    literal = pattern
    while not os.path.lexists(literal) and (above := os.path.dirname(literal)) != literal:
        literal = above
    return glob.glob(glob.escape(literal) + pattern[len(literal) :], recursive=True)


def match_uris(pattern: str) -> list[str]:
    """Returns the URIs of the files that a URI with `*`, `?` or `[` in it matches; they keep the pattern's query."""
    scheme, _, rest = pattern.partition("://")
    rest, query = split_query(rest)
    folder = re.split(r"[*?\[]", rest)[0].rpartition("/")[0]
    filesystem, root = from_uri(f"{scheme}://{folder}{query}")
    with explaining(pattern):
        found = filesystem.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
        if not found:
            _check_bucket(filesystem, root, pattern)
    # Here a `*` stands for slashes, too: stores have no folders.
    files = [info.path for info in found if info.type == FileType.File]
    if rest in files:  # a name with a `[` in it
        return [pattern]
    return [f"{scheme}://{path}{query}" for path in fnmatch.filter(files, rest)]


def file_sizes(paths: Iterable[str]) -> dict[str, int | None]:
    """Returns the size of each file, None where there is none."""
    sizes: dict[str, int | None] = dict.fromkeys(paths)
    folders: dict[tuple[int, str], tuple[FileSystem, dict[str, str]]] = {}
    for path in sizes:
        filesystem, location = from_uri(path)
        key = id(filesystem), location.rpartition("/")[0]  # filesystems cannot be keys
        folders.setdefault(key, (filesystem, {}))[1][location] = path
    for (_, folder), (filesystem, locations) in folders.items():
        # A listing brings a thousand sizes for the price of one.
        is_listed = len(locations) > 1 and not isinstance(filesystem, LocalFileSystem)
        selector = FileSelector(folder, allow_not_found=True) if is_listed else list(locations)
        with explaining(next(iter(locations.values()))):
            found = filesystem.get_file_info(selector)
        for info in found:
            if info.path in locations and info.type == FileType.File:
                sizes[locations[info.path]] = info.size
    return sizes


def total_bytes(paths: Sequence[str]) -> int:
    """Returns the size of files together; one that is missing counts 0."""
    sizes = file_sizes(paths)
    return sum(sizes[path] or 0 for path in paths)  # a path that stands twice counts twice


class _ReadAhead(io.RawIOBase):
    """A file of an object store that is requested in pieces of READ_AHEAD_BYTES."""

    # Each piece is a GET of its own, which the AWS SDK repeats when the server refuses it, falls silent or cuts it.
    # pyarrow misses two faults, whose requests are repeated here: it takes an answer that is too short for a whole one,
    # and does not retry an error whose text is longer than the buffer.

    def __init__(self, file: Any, path: str, size: int) -> None:
        super().__init__()
        self._file, self._path, self._size = file, path, size
        self._offset = 0
        self._buffer = memoryview(bytearray(min(READ_AHEAD_BYTES, size)))
        self._ahead = self._buffer[:0]

    def readinto(self, buffer: Any, /) -> int:
        if not self._ahead:
            self._ahead = self._request(min(READ_AHEAD_BYTES, self._size - self._offset))
            self._offset += len(self._ahead)
        view = memoryview(buffer).cast("B")
        num_bytes = min(len(view), len(self._ahead))
        view[:num_bytes] = self._ahead[:num_bytes]
        self._ahead = self._ahead[num_bytes:]
        return num_bytes

    def _request(self, num_bytes: int) -> memoryview:
        wanted = self._buffer[:num_bytes]
        if not num_bytes:
            return wanted
        for attempt in range(_NUM_OWN_ATTEMPTS):
            time.sleep(_OWN_BACKOFF_S * attempt)
            with explaining(self._path):
                if self._has_read(wanted):
                    return wanted
        # An error, because a shard that ended here might look whole.
        place = f"{num_bytes} bytes from {self._offset}"
        raise OSError(f"{self._path}: {place} expected, fewer or an error found in every attempt")

    def _has_read(self, wanted: memoryview) -> bool:
        # A short answer leaves the rest of the buffer as it was: its end is marked, to see whether it was overwritten.
        mark = os.urandom(_MARK_BYTES)[: len(wanted)]  # drawn each time: no bytes of a file equal it twice
        wanted[-len(mark) :] = mark
        self._file.seek(self._offset)
        try:
            num_read = self._file.readinto(wanted)
        except OSError as error:
            if _LONG_ERROR not in str(error):
                raise
            return False
        return bool(num_read == len(wanted) and wanted[-len(mark) :] != mark)

    def close(self) -> None:
        self._file.close()
        super().close()


@functools.cache
def _open_s3(bucket: str, connection: _Connection) -> FileSystem:
    return pyarrow.fs.S3FileSystem(
        endpoint_override=connection.endpoint,
        scheme=connection.scheme,
        region=connection.region or pyarrow.fs.resolve_s3_region(bucket),
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_SILENCE_TIMEOUT_S,
        # Not the standard strategy: it allows a client 100 retries, and pyarrow never tells it of a success, which
        # would give them back. This one counts retries, not attempts.
        retry_strategy=pyarrow.fs.AwsDefaultS3RetryStrategy(max_attempts=connection.num_attempts - 1),
    )


def _connection(path: str) -> _Connection:
    given = dict(urllib.parse.parse_qsl(split_query(path)[1].lstrip("?")))
    unknown = sorted(set(given) - set(_QUERY_KEYS))
    if unknown:
        raise ValueError(f"{path}: {unknown[0]}: unknown; valid after the `?`: {', '.join(_QUERY_KEYS)}")
    attempts = os.environ.get("AWS_MAX_ATTEMPTS") or str(NUM_ATTEMPTS)
    if not attempts.isdigit() or attempts == "0":
        raise ValueError(f"AWS_MAX_ATTEMPTS: expected a number from 1, found {attempts!r}")
    variable = os.environ.get
    endpoint = given.get("endpoint_override") or variable("AWS_ENDPOINT_URL_S3") or variable("AWS_ENDPOINT_URL")
    region = given.get("region") or variable("AWS_REGION") or variable("AWS_DEFAULT_REGION")
    if endpoint and not region:
        region = "us-east-1"  # servers that are not Amazon's have one region, mostly by this name
    return _Connection(endpoint, given.get("scheme"), region, int(attempts))


def explaining(path: str) -> AbstractContextManager[None]:
    """Returns a block in which an object store's errors are those that `explained` names."""
    return explained(path, endpoint=_store_of(path))


def _store_of(path: str) -> str:
    return _connection(path).endpoint or "Amazon S3" if path.startswith("s3://") else "the object store"


def _check_bucket(filesystem: FileSystem, location: str, path: str) -> None:
    # An answer to HEAD has no body: 404 stands for a missing bucket as for a missing key.
    if isinstance(filesystem, pyarrow.fs.S3FileSystem):
        bucket = location.partition("/")[0]
        if filesystem.get_file_info(bucket).type == FileType.NotFound:
            raise FileNotFoundError(f"{path}: no bucket {bucket!r} at {_store_of(path)}")


def split_query(uri: str) -> tuple[str, str]:
    """Returns (the URI without its query, the query with its `?`)."""
    # A `?` before anything but `key=` is a wildcard.
    found = re.search(r"\?[a-z_]+=[^?*]*$", uri)
    return (uri, "") if found is None else (uri[: found.start()], found[0])
