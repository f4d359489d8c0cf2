"""Packed request bodies: which content encodings are taken, and how far they are unpacked."""

from __future__ import annotations

import zlib

from fastapi import Request

from serve.errors import RequestError

IDENTITY, GZIP, DEFLATE = "identity", "gzip", "deflate"

_NAMES = {"": IDENTITY, IDENTITY: IDENTITY, GZIP: GZIP, "x-gzip": GZIP, DEFLATE: DEFLATE}
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS

_ALWAYS_BYTES = 4 * 2**20
_MOST_TIMES = 64
"""A body may be unpacked to _ALWAYS_BYTES and so many times what has been read of it: frames and lists of numbers
shrink to a third, and a bomb, which has shrunk to a thousandth, is given up after some milliseconds."""

_STEP_BYTES = 2**14


def content_encoding(request: Request) -> str:
    """Returns how the body is packed: IDENTITY, GZIP or DEFLATE.

    Raises:
        RequestError: 415: in another way, or more than once.
    """
    given = ", ".join(request.headers.getlist("content-encoding"))
    names = [_NAMES.get(name.strip().lower()) for name in given.split(",")]
    packed = [name for name in names if name != IDENTITY]
    if len(packed) > 1 or None in packed:
        accepted = {"accept-encoding": f"{GZIP}, {DEFLATE}"}
        message = f"content-encoding: expected {GZIP} or {DEFLATE} once, or none, found {given[:100]!r}"
        raise RequestError(415, message, headers=accepted)
    return packed[0] or IDENTITY if packed else IDENTITY


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Returns the body as it was before it was packed.

    Args:
        body: As it arrived.
        encoding: From `content_encoding`.
        max_bytes: Longest body that is taken.

    Raises:
        RequestError: it is not packed like that (400), or would become too long (413).
    """
    if encoding == IDENTITY:
        return body
    inflater = zlib.decompressobj(_window_bits(body, encoding))
    parts, size, num_read = [], 0, 0
    while num_read < len(body) and not inflater.eof:
        step = memoryview(body)[num_read : num_read + _STEP_BYTES]
        num_read += len(step)
        most = min(max_bytes, _ALWAYS_BYTES + _MOST_TIMES * num_read)
        try:
            parts.append(inflater.decompress(step, most - size + 1))
        except zlib.error as error:
            raise RequestError(400, f"body: not {encoding}: {error}") from None
        size += len(parts[-1])
        if size > most:
            raise RequestError(413, f"body: at most {most} bytes once it is unpacked, found more")
    if not inflater.eof:
        raise RequestError(400, f"body: the {encoding} data is cut short")
    if num_behind := len(inflater.unused_data) + len(body) - num_read:
        raise RequestError(400, f"body: {num_behind} bytes follow the {encoding} data")
    return b"".join(parts)


def _window_bits(body: bytes, encoding: str) -> int:
    """Returns what zlib calls the container; `deflate` is that of zlib, but some clients send the bare data."""
    if encoding == GZIP:
        return _GZIP_BITS
    is_zlib = len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
    return _ZLIB_BITS if is_zlib else _RAW_BITS
