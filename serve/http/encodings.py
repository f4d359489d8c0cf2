"""Packed request bodies: which content encodings are accepted, and how far a body is unpacked."""

from __future__ import annotations

import zlib
from typing import Final, Literal

from fastapi import Request

from serve.errors import RequestError
from yt8m_ray.data.storage.byte_stream import window_bits

Encoding = Literal["identity", "gzip", "deflate"]
IDENTITY: Final = "identity"
GZIP: Final = "gzip"
DEFLATE: Final = "deflate"
_NAMES: dict[str, Encoding] = {"": IDENTITY, IDENTITY: IDENTITY, GZIP: GZIP, "x-gzip": GZIP, DEFLATE: DEFLATE}

# A body may be unpacked to _FREE_BYTES and _MAX_RATIO times what has been read of it. Frames and lists of numbers
# shrink to a third; a bomb, which has shrunk to a thousandth, is given up after some milliseconds.
_FREE_BYTES = 4 * 2**20
_MAX_RATIO = 64
_STEP_BYTES = 2**14

# GZIP data may have _FREE_MEMBERS, and one more for each _MEMBER_BYTES: each costs a decompressor, and bgzip makes one
# of each 64 KiB.
_FREE_MEMBERS = 100
_MEMBER_BYTES = 2**15
# The first byte of a GZIP header (RFC 1952): anything else after a member is no member.
_MEMBER_START = b"\x1f"


def content_encoding(request: Request) -> Encoding:
    """Returns how the body is packed; RequestError 415 if it is packed otherwise, or more than once."""
    given = ", ".join(request.headers.getlist("content-encoding"))
    names = [_NAMES.get(name.strip().lower()) for name in given.split(",")]
    packed = [name for name in names if name != IDENTITY]
    if len(packed) > 1 or None in packed:
        accepted = {"accept-encoding": f"{GZIP}, {DEFLATE}"}
        message = f"content-encoding: expected {GZIP} or {DEFLATE} once, or none, found {given[:100]!r}"
        raise RequestError(415, message, headers=accepted)
    return packed[0] or IDENTITY if packed else IDENTITY


def unpack(body: bytes, encoding: Encoding, max_bytes: int) -> bytes:
    """Returns the body as it was before it was packed, of GZIP data all members.

    RequestError 400 if it is not packed like that, 413 if it is longer than `max_bytes` or expands too much.
    """
    if encoding == IDENTITY:
        return body
    bits = window_bits(encoding, body[:2])
    inflater, num_members = zlib.decompressobj(bits), 1
    parts, size, num_read = [], 0, 0
    while num_read < len(body):
        rest: bytes | memoryview = memoryview(body)[num_read : num_read + _STEP_BYTES]
        num_read += len(rest)
        most = min(max_bytes, _FREE_BYTES + _MAX_RATIO * num_read)
        while rest:
            if inflater.eof:
                num_members += 1
                if encoding != GZIP or rest[:1] != _MEMBER_START:
                    num_after = len(rest) + len(body) - num_read
                    raise RequestError(400, f"body: {num_after} bytes follow the {encoding} data")
                if num_members > _FREE_MEMBERS + size // _MEMBER_BYTES:
                    raise RequestError(400, f"body: {num_members} gzip members hold {size} bytes, expected fewer")
                inflater = zlib.decompressobj(bits)
            try:
                # One byte more than allowed, which tells a body that is too long from one that just fits.
                parts.append(inflater.decompress(rest, most - size + 1))
            except zlib.error as error:
                raise RequestError(400, f"body: not {encoding}: {error}") from None
            size += len(parts[-1])
            if size > most:
                raise RequestError(413, f"body: at most {most} bytes once it is unpacked, found more")
            rest = inflater.unused_data
    if not inflater.eof:
        raise RequestError(400, f"body: the {encoding} data is cut short")
    return b"".join(parts)
