"""Streams of bytes: reading ahead without trusting a length, and unpacking GZIP and ZLIB on the way."""

from __future__ import annotations

import io
import os
import zlib
from typing import Any, Literal, TypeAlias

import crc32c
import numpy as np

from yt8m_ray.data.buffer_pool import shared_pool
from yt8m_ray.data.errors import RecordError
from yt8m_ray.local_files import regular_only

# "deflate" is what HTTP calls so: ZLIB's container, or bare data as some clients send.
Compression = Literal["none", "gzip", "zlib", "deflate", "auto"]
# What a shard is read from: of all their methods, `readinto` and `close`.
ByteStream: TypeAlias = io.RawIOBase | io.BufferedIOBase
# zlib's own numbers for the containers: 16 more asks for GZIP's, a negative number for none.
WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS}
_BARE_BITS = -zlib.MAX_WBITS
# Read at once: enough for huge pages, and only a record that two chunks share is copied once more.
_CHUNK_BYTES = 1 << 22
# Unpacked at once: zlib drops what a damaged piece unpacks to, and finding that again takes longer the larger it is.
_PACKED_CHUNK_BYTES = 1 << 16
_START_BYTES = 64


def has_zlib_header(start: bytes) -> bool:
    """Returns whether a stream with these first bytes, two or more, is in ZLIB's container."""
    # RFC 1950: the method in the low half of the first byte, and a check that makes both bytes a multiple of 31.
    return len(start) > 1 and start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2]) % 31 == 0


def window_bits(compression: Compression, start: bytes) -> int:
    """Returns what zlib calls the container of a stream that begins with these bytes."""
    if compression == "deflate":
        return WINDOW_BITS["zlib"] if has_zlib_header(start) else _BARE_BITS
    return WINDOW_BITS[compression]


class ChecksummedStream(io.RawIOBase):
    """A stream, closed with this one, and the CRC-32C, number and first 64 of the bytes read so far."""

    def __init__(self, stream: ByteStream) -> None:
        super().__init__()
        self._stream = stream
        self.start = b""
        self.crc = self.num_bytes = 0

    def readinto(self, buffer: Any, /) -> int:
        num_read = self._stream.readinto(buffer) or 0
        view = memoryview(buffer)[:num_read]
        self.crc = crc32c.crc32c(view, self.crc)
        self.num_bytes += num_read
        self.start += view[: max(_START_BYTES - len(self.start), 0)]
        return num_read

    def drain(self) -> None:
        """Reads what a reader left that gave up before the end."""
        while self.read(_CHUNK_BYTES):
            pass

    def close(self) -> None:
        self._stream.close()
        super().close()


class LocalFile(io.FileIO):
    """A regular file on this machine; RecordError where it ends before the bytes that it was opened with."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb", opener=regular_only)
        self._num_left = os.fstat(self.fileno()).st_size

    def readinto(self, buffer: Any, /) -> int | None:
        num_read = super().readinto(buffer)
        self._num_left -= num_read or 0
        # A file cut between two records would look whole. One that grows is read to its new end.
        if not num_read and self._num_left > 0:
            raise RecordError(f"the file has lost {self._num_left} bytes since it was opened", "length")
        return num_read


class Window:
    """The bytes of a stream that have been read and not been taken yet."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._pool = shared_pool(_CHUNK_BYTES)
        self._buffer = np.empty(0, np.uint8)
        self._start = self._end = 0

    def fill(self, num_bytes: int) -> int:
        """Reads until `num_bytes` are waiting or the stream ends; returns how many are waiting."""
        while self._end - self._start < num_bytes:
            if self._end == len(self._buffer):
                self._make_room()
            num_read = self._stream.readinto(self._buffer[self._end :].data)
            if not num_read:
                break
            self._end += num_read
        return self._end - self._start

    def peek(self, num_bytes: int) -> np.ndarray:
        """Returns at most so many waiting bytes and leaves them waiting; the view stays valid while it is kept."""
        return self._buffer[self._start : min(self._start + num_bytes, self._end)]

    def take(self, num_bytes: int) -> np.ndarray:
        """Returns at most so many waiting bytes and moves past them; the view stays valid while it is kept."""
        taken = self.peek(num_bytes)
        self._start += len(taken)
        return taken

    def give_back(self, num_bytes: int) -> None:
        """Makes the bytes that were taken last, since the last `fill`, wait again."""
        self._start -= num_bytes

    def _make_room(self) -> None:
        # Views of the old buffer may be in use, so it is left alone. The new one's size follows what was read, not what
        # a length promises: it at most triples, and no damaged length can ask for gigabytes.
        waiting = self._buffer[self._start : self._end]
        if 2 * len(waiting) <= self._pool.num_bytes:
            self._buffer = self._pool.take()
        else:
            self._buffer = np.empty(self._pool.num_bytes + 2 * len(waiting), np.uint8)
        self._buffer[: len(waiting)] = waiting
        self._start, self._end = 0, len(waiting)


class Inflater(io.RawIOBase):
    """The uncompressed bytes of a GZIP stream (of one or more members), a ZLIB stream or a bare one."""

    def __init__(self, packed: Window, compression: Compression) -> None:
        super().__init__()
        self._packed = packed
        self._name = compression.upper()
        # Two bytes are waiting, where the stream has them: it was looked at to tell how it is packed.
        self._bits = window_bits(compression, packed.peek(2).tobytes())
        self._decompressor = zlib.decompressobj(self._bits)
        self._input: bytes | memoryview = b""
        self._error: RecordError | None = None

    def readinto(self, buffer: Any, /) -> int:
        """Fills the start of `buffer`; returns the number of bytes, 0 at the sound end of the stream.

        Raises:
            RecordError: the stream is corrupt, cut short, or followed by other bytes; all before that has been given.
        """
        while self._error is None:
            if not self._input:
                self._input = self._packed.take(min(self._packed.fill(1), _PACKED_CHUNK_BYTES)).data
            is_last = not self._input
            if self._decompressor.eof:
                if is_last:
                    return 0
                self._start_member()
            before = self._decompressor.copy()
            # An error is kept until the bytes before it have been taken, so that the sound records there are read.
            try:
                output = self._decompressor.decompress(self._input, len(buffer))
            except zlib.error as error:
                self._error = RecordError(f"the {self._name} stream is corrupt ({error})", "crc")
                output = _unpack_to_error(before, self._input)
            at_end = self._decompressor.eof
            self._input = self._decompressor.unused_data if at_end else self._decompressor.unconsumed_tail
            if output:
                buffer[: len(output)] = output
                return len(output)
            if is_last and not at_end:
                raise RecordError(f"the {self._name} stream is cut short", "length")
        raise self._error

    def _start_member(self) -> None:
        # RFC 1952: GZIP members may follow one another; no other container has that.
        if self._bits != WINDOW_BITS["gzip"]:
            raise RecordError(f"bytes follow the end of the {self._name} stream", "length")
        self._decompressor = zlib.decompressobj(self._bits)


def _unpack_to_error(decompressor: Any, packed: bytes | memoryview) -> bytes:
    """Returns what the bytes before the damaged one unpack to: zlib itself drops it with the error."""
    # By bisection: a copy of the state tries the first half of what is left, and stands for it where that is sound.
    parts = []
    size = len(packed)
    while size:
        attempt = decompressor.copy()
        try:
            parts.append(attempt.decompress(packed[:size]))
        except zlib.error:
            size //= 2
        else:
            decompressor, packed = attempt, packed[size:]
    return b"".join(parts)
