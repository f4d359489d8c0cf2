"""The text of a file that others wrote, out of gzip or zip, and the objects of a JSON array in it."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from yt8m_ray.inference.predictions.rows import RowError
from yt8m_ray.json_document import unique

GZIP_MAGIC, ZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"

# How many times its size a compressed file may become, beyond some bytes that are free: text becomes 3 to 10 times as
# large, and what is made to fill a memory with one endless line a thousand times.
MOST_EXPANSION, FREE_BYTES = 100, 64 << 20
# Of a JSON object: a video's classes and scores take some kilobytes.
MOST_CHARACTERS = 16 << 20

_BUFFER_BYTES = 1 << 18
_CHUNK_CHARACTERS = 1 << 20
_NOT_SPACE = re.compile(r"[^ \t\r\n]")


@contextlib.contextmanager
def open_text(path: str, *, errors: str = "surrogateescape") -> Iterator[IO[str]]:
    """Gives a stream of the text of a local file, whose lines keep their ends.

    Raises:
        ValueError: a compressed file is damaged, grows too large, is a Parquet file, or a zip that does not hold just
            one file; or the text is no UTF-16.
        OSError: it cannot be read.
    """
    # `errors`: what bytes that are no UTF-8 become, as in `open`; in UTF-16 they are always an error.
    try:
        with open(path, "rb", buffering=0) as file, _decompressed(file, path) as content:
            reader = io.BufferedReader(content, _BUFFER_BYTES)
            head = reader.peek(4)
            if content is not file and head.startswith(PARQUET_MAGIC):
                raise ValueError(f"{path}: a Parquet file is compressed in itself; unpack it")
            # Excel and PowerShell write byte order marks, and UTF-16.
            is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            encoding, errors = ("utf-16", "strict") if is_wide else ("utf-8-sig", errors)
            # No other line ends than "\n": a JSON object may hold "\r" between its values.
            with io.TextIOWrapper(reader, encoding, errors=errors, newline="\n") as text:
                yield text
    # RuntimeError: a zip with a password.
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, UnicodeError, RuntimeError) as error:
        raise ValueError(f"{path}: not a sound file of its kind: {error}") from None


@contextlib.contextmanager
def _decompressed(file: io.FileIO, path: str) -> Iterator[Any]:
    magic = file.read(4)
    file.seek(0)
    if not magic.startswith((GZIP_MAGIC, ZIP_MAGIC)):
        yield file
        return
    with contextlib.ExitStack() as stack:
        if magic.startswith(GZIP_MAGIC):
            unpacked: Any = stack.enter_context(gzip.open(file))
        else:
            unpacked = stack.enter_context(_only_member(stack.enter_context(zipfile.ZipFile(file))))
        yield _Limited(unpacked, FREE_BYTES + MOST_EXPANSION * os.fstat(file.fileno()).st_size, path)


def _only_member(archive: zipfile.ZipFile) -> IO[bytes]:
    # What macOS adds is not part of what was packed.
    members = [each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        names = ", ".join(each.filename for each in members[:3]) or "none"
        raise zipfile.BadZipFile(f"expected one file in the zip, found {len(members)}: {names}")
    if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile("expected a file that is deflated or stored")
    return archive.open(members[0])


class _Limited(io.RawIOBase):
    """A stream that gives `limit` bytes at most."""

    def __init__(self, stream: IO[bytes], limit: int, path: str) -> None:
        super().__init__()
        self._stream, self._left = stream, limit
        self._message = f"{path}: it expands to more than {limit} bytes"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(self._message)
        buffer[: len(data)] = data
        return len(data)


def array_items(text: IO[str]) -> Iterator[Any]:
    """Yields the objects of an array as it reads them; RowError at the place where the text is no such array."""
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    buffer, position, expected = "", 0, "["
    while True:
        match = _NOT_SPACE.search(buffer, position)
        if match is None:
            buffer, position = text.read(_CHUNK_CHARACTERS), 0
            if buffer:
                continue
            if expected:
                raise RowError(f"the array has no end; expected {' or '.join(expected)}")
            return
        position, found = match.start(), match[0]
        if found not in expected:
            raise RowError(f"expected {' or '.join(expected) or 'nothing behind the array'}, found {found!r}")
        if found != "{":
            expected = {"[": "{]", ",": "{", "]": ""}[found]
            position += 1
            continue
        try:
            item, position = decoder.raw_decode(buffer, position)
        except (ValueError, RecursionError) as error:
            # No JSON, or an object that goes on in the next chunk: which of the two, more text shows.
            more = text.read(_CHUNK_CHARACTERS)
            buffer, position = buffer[position:], 0
            if not more or len(buffer) > MOST_CHARACTERS:
                raise RowError(f"expected a JSON object, found {buffer[:60]!r} ({error})") from None
            buffer += more
            continue
        expected = ",]"
        yield item
