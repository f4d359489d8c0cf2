"""TFRecord shards: the bytes of a file <-> the payloads of its records.

Lives here: framing, CRC-32C, opening a shard wherever it is. Does not live here: what a payload means
(`yt8m_ray.data.example`).

A record is an 8-byte little-endian length, the masked CRC-32C of these 8 bytes, the payload, and its masked CRC-32C.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import crc32c
import pyarrow.fs

from yt8m_ray.data.errors import CorruptRecordError, RecordError
from yt8m_ray.data.stream import WINDOW_BITS, ByteStream, Compression, Inflater, Window

__all__ = ["Compression", "CorruptRecordError", "frame_record", "open_shard", "read_payloads", "write_records"]

_HEADER = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_MAX_PAYLOAD_BYTES = 2**31 - 1
"""Longest message that protobuf can parse."""


def open_shard(path: str, filesystem: pyarrow.fs.FileSystem | None = None) -> ByteStream:
    """Returns the shard's bytes as an unbuffered stream, never decompressed.

    Args:
        path: A local path, or a URI such as `s3://bucket/train0001.tfrecord`; with `filesystem`, a path inside it.
        filesystem: Where `path` is, if that is known already.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: with the path.
    """
    if filesystem is None and "://" not in path:
        return open(path, "rb", buffering=0)
    location = path
    if filesystem is None:
        filesystem, location = pyarrow.fs.FileSystem.from_uri(path)
    kind = filesystem.get_file_info(location).type
    if kind == pyarrow.fs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if kind == pyarrow.fs.FileType.Directory:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    stream: ByteStream = filesystem.open_input_stream(location, compression=None)
    return stream


def read_payloads(
    stream: ByteStream,
    *,
    path: str,
    compression: Compression = "auto",
    verify_crc: bool = True,
) -> Iterator[tuple[int, int, memoryview]]:
    """Yields (record index, byte offset in the uncompressed stream, payload) of each record.

    A payload is a read-only view that stays valid for as long as it is kept, though it may keep up to a megabyte of
    its neighbours in memory with it. Lengths are never trusted: no more is allocated than twice what the stream holds.

    Args:
        stream: The shard from its first byte; the caller closes it.
        path: The shard's name, for errors.
        compression: How the stream is packed; "auto" looks at its first bytes.
        verify_crc: False skips the checksums of the payloads. Those of the lengths are verified always.

    Raises:
        CorruptRecordError: with the record that could not be read; all before it have been yielded.
    """
    window = Window(stream)
    record = offset = 0
    while True:
        try:
            if record == 0:
                window = _decompress(window, compression)
            elif window.fill(1) == 0:
                return
            payload = _read_record(window, verify_crc=verify_crc, is_first=record == 0)
        except RecordError as error:
            raise CorruptRecordError(path, record, offset, error.reason, error.cause) from error
        yield record, offset, payload
        record += 1
        offset += _HEADER.size + len(payload) + _CHECKSUM.size


def write_records(path: str, payloads: Iterable[bytes], *, compression: Compression = "none") -> int:
    """Writes a shard and returns its number of records; nothing half-written ever stands at `path`.

    Args:
        path: A local path; it is replaced when the last record is written.
        payloads: The records, at least one.
        compression: "none", "gzip" or "zlib"; the bytes depend on the payloads alone.
    """
    aside = Path(path + ".tmp")
    try:
        with open(aside, "wb") as file:
            num_records = _write_frames(file, payloads, compression)
        if num_records == 0:
            raise ValueError(f"{path}: no record to write; a shard holds at least one")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return num_records


def frame_record(payload: bytes) -> bytes:
    """Returns the payload between its length and its checksum, as it stands in a shard."""
    length = _LENGTH.pack(len(payload))
    return b"".join((length, _CHECKSUM.pack(_masked_crc(length)), payload, _CHECKSUM.pack(_masked_crc(payload))))


def _write_frames(file: IO[bytes], payloads: Iterable[bytes], compression: Compression) -> int:
    if compression not in ("none", *WINDOW_BITS):
        raise ValueError(f"compression: expected none, gzip or zlib, found {compression!r}")
    bits = WINDOW_BITS.get(compression)
    compressor = None if bits is None else zlib.compressobj(wbits=bits)
    num_records = 0
    for payload in payloads:
        frame = frame_record(payload)
        file.write(frame if compressor is None else compressor.compress(frame))
        num_records += 1
    if compressor is not None:
        file.write(compressor.flush())
    return num_records


def _masked_crc(data: bytes | memoryview) -> int:
    """Returns the CRC-32C rotated and shifted, as TFRecord stores it."""
    crc = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _read_record(window: Window, *, verify_crc: bool, is_first: bool) -> memoryview:
    """Returns the payload of the record at the window's start; RecordError where it is not whole and sound."""
    found = window.fill(_HEADER.size)
    if found == 0:
        raise RecordError("0 bytes: no record", "length")
    if found < _HEADER.size:
        suffix = "; not a TFRecord shard" if is_first else ""
        raise RecordError(f"{_HEADER.size} bytes of header expected, {found} found{suffix}", "length")
    header = window.take(_HEADER.size)
    length, length_crc = _HEADER.unpack(header)
    if _masked_crc(header[: _LENGTH.size]) != length_crc:
        prefix = "not a TFRecord shard: " if is_first else ""
        raise RecordError(f"{prefix}the checksum of the record's length does not match", "crc")
    if length > _MAX_PAYLOAD_BYTES:
        raise RecordError(f"{length} bytes promised, at most {_MAX_PAYLOAD_BYTES} are possible", "length")
    found = window.fill(length + _CHECKSUM.size)
    if found < length:
        raise RecordError(f"{length} bytes promised, {found} found", "length")
    if found < length + _CHECKSUM.size:
        raise RecordError(f"{_CHECKSUM.size} bytes of checksum expected, {found - length} found", "length")
    payload = window.take(length)
    (payload_crc,) = _CHECKSUM.unpack(window.take(_CHECKSUM.size))
    if verify_crc and _masked_crc(payload) != payload_crc:
        raise RecordError(f"the checksum of its {length} bytes does not match", "crc")
    return payload


def _decompress(window: Window, compression: Compression) -> Window:
    """Returns a window on the uncompressed bytes; an empty stream stays as it is."""
    found = window.fill(_HEADER.size)
    if compression == "auto":
        compression = _detect(bytes(window.peek(_HEADER.size)))
    if compression == "none" or found == 0:
        return window
    return Window(Inflater(window, compression))


def _detect(start: bytes) -> Compression:
    """Returns how a shard is packed that starts with these bytes, a header's length of them."""
    # The checksum decides first: the length 35,615 is spelled 1f 8b, like the start of a GZIP stream.
    if len(start) == _HEADER.size and _masked_crc(start[: _LENGTH.size]) == _HEADER.unpack(start)[1]:
        return "none"
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    if len(start) >= 2 and start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2]) % 31 == 0:
        return "zlib"
    return "none"
