"""The text of a file that others wrote: out of gzip or zip, as UTF-8 without a byte order mark.

Kaggle takes gzip and zip; Excel and PowerShell write byte order marks, and UTF-16. What has to be decoded is decoded
once, into a temporary file without a name, which vanishes with the process.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import mmap
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

GZIP_MAGIC, ZIP_MAGIC = b"\x1f\x8b", b"PK\x03\x04"

MOST_EXPANSION, FREE_BYTES = 100, 64 << 20
"""How many times larger a compressed file may become, beyond some bytes that are free: text becomes 3 to 10 times as
large, and what is made to fill a disk a thousand times."""

_CHUNK_BYTES = 1 << 20
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class FileContent:
    """The bytes of a file, decoded, for any number of readers.

    Args:
        path: A local file.

    Attributes:
        path: As given.
        is_decoded: Whether they are others than those of the file.
        start: Where the text begins, behind a byte order mark.

    Raises:
        ValueError: a compressed file is damaged, grows too large, or a zip holds another number of files than one.
        OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - it is read for as long as this object lives
        self.is_decoded = False
        magic = self._file.read(4)
        if magic.startswith((GZIP_MAGIC, ZIP_MAGIC)):
            limit = FREE_BYTES + MOST_EXPANSION * os.fstat(self._file.fileno()).st_size
            self._file.seek(0)
            with self._errors(), _decompressed(self._file, magic) as packed:
                self._keep(_limited(packed, limit, f"{path}: it expands to more than {limit} bytes"))
        encoding = _UTF_16.get(self.head(2))
        if encoding is not None:
            with self._errors():
                self._keep(_transcoded(self.reader(2), encoding))
        self.start = len(codecs.BOM_UTF8) if self.head(3) == codecs.BOM_UTF8 else 0

    def head(self, size: int) -> bytes:
        """Returns the first bytes, byte order mark included."""
        return os.pread(self._file.fileno(), size, 0)

    def reader(self, start: int | None = None) -> io.BufferedReader:
        """Returns a stream of its own from `start` on, else from the begin of the text."""
        return io.BufferedReader(_At(self._file, self.start if start is None else start), _CHUNK_BYTES)

    def map(self) -> mmap.mmap:
        """Returns all bytes in memory that the system takes back."""
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def holds(self, byte: bytes) -> bool:
        """Returns whether a byte is anywhere in it."""
        with self.reader() as reader:
            return any(byte in chunk for chunk in iter(lambda: reader.read(_CHUNK_BYTES), b""))

    def _keep(self, chunks: Iterator[bytes]) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - as above
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        self._file.close()
        self._file, self.is_decoded = file, True

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, UnicodeError, RuntimeError) as error:
            raise ValueError(f"{self.path}: not a sound file of its kind: {error}") from None


class _At(io.RawIOBase):
    """A file's bytes from a place on, whatever others read of it."""

    def __init__(self, file: IO[bytes], position: int) -> None:
        super().__init__()
        self._file, self._position = file, position

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = os.preadv(self._file.fileno(), [buffer], self._position)
        self._position += count
        return count


@contextlib.contextmanager
def _decompressed(file: IO[bytes], magic: bytes) -> Iterator[Any]:
    if magic.startswith(GZIP_MAGIC):
        with gzip.open(file) as unpacked:
            yield unpacked
        return
    with zipfile.ZipFile(file) as archive:
        # What macOS adds is no file of anybody's.
        members = [
            each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")
        ]
        if len(members) != 1:
            names = ", ".join(each.filename for each in members[:3]) or "none"
            raise zipfile.BadZipFile(f"expected one file in the zip, found {len(members)}: {names}")
        if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("expected a file that is deflated or stored")
        with archive.open(members[0]) as unpacked:
            yield unpacked


def _limited(packed: Any, limit: int, message: str) -> Iterator[bytes]:
    num_left = limit
    while chunk := packed.read(_CHUNK_BYTES):
        num_left -= len(chunk)
        if num_left < 0:
            raise ValueError(message)
        yield chunk


def _transcoded(reader: IO[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    while chunk := reader.read(_CHUNK_BYTES):
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()
