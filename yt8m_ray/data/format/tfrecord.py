"""TFRecord shards: the bytes of a file <-> the payloads of its records.

A record is an 8-byte little-endian length, the masked CRC-32C of these 8 bytes, the payload, and its masked CRC-32C.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from yt8m_ray.data.format.framing import LENGTH, Framing, OnCorrupt, Records, masked_crc
from yt8m_ray.data.storage.byte_stream import WINDOW_BITS, ByteStream, Compression
from yt8m_ray.local_files import replace_file

_CHECKSUM = struct.Struct("<I")


def read_records(
    stream: ByteStream,
    *,
    path: str,
    compression: Compression = "auto",
    verify_crc: bool = True,
    on_corrupt: OnCorrupt | None = None,
) -> Iterator[Records]:
    """Yields the records of a shard, as many at a time as were read at once; the caller closes the stream.

    Args:
        verify_crc: False skips the checksums of the payloads, not those of the lengths.
        on_corrupt: Called with each bad record, which is left out: up to the next sound header behind its own, whatever
            its length says. None raises the error.

    Raises:
        CorruptRecordError: with the record that could not be read; all before it have been yielded.
    """
    # Lengths are never trusted: no more is allocated than some three times what the stream holds.
    framing = Framing(stream, path, compression, on_corrupt)
    while (records := framing.next_records()) is not None:
        good = 0
        for bad, error in records.checksum_errors().items() if verify_crc else ():
            if bad > good:
                yield records.between(good, bad)
            framing.reject(records.first + bad, records.offset_of(bad), error)
            good = bad + 1
            # A wrong length may have hidden sound records in this one, and those behind it are found again.
            if framing.has_moved_back(records, bad):
                good = len(records)
                break
        if good < len(records):
            yield records.between(good, len(records))


def read_payloads(
    stream: ByteStream,
    *,
    path: str,
    compression: Compression = "auto",
    verify_crc: bool = True,
    on_corrupt: OnCorrupt | None = None,
) -> Iterator[tuple[int, int, memoryview]]:
    """Yields (record index, byte offset in the uncompressed stream, payload) of each record; see `read_records`.

    A payload is a read-only view, valid for as long as it is kept; it may keep some megabytes of its neighbours.
    """
    chunks = read_records(stream, path=path, compression=compression, verify_crc=verify_crc, on_corrupt=on_corrupt)
    for records in chunks:
        for index, payload in enumerate(records.payloads()):
            yield records.first + index, records.offset_of(index), payload


def write_records(path: str, payloads: Iterable[bytes], *, compression: Compression = "none") -> int:
    """Writes a local shard, and replaces `path` when the last record is written; returns the number of records.

    Compression is "none", "gzip" or "zlib"; the bytes depend on the payloads alone.
    """
    if compression not in ("none", *WINDOW_BITS):
        raise ValueError(f"compression: expected none, gzip or zlib, found {compression!r}")
    # zlib leaves the time out of GZIP's header, so that the same payloads give the same file.
    compressor = None if compression == "none" else zlib.compressobj(wbits=WINDOW_BITS[compression])
    num_records = 0

    def write(aside: Path) -> None:
        nonlocal num_records
        with open(aside, "wb") as file:
            for payload in payloads:
                frame = frame_record(payload)
                file.write(frame if compressor is None else compressor.compress(frame))
                num_records += 1
            if compressor is not None:
                file.write(compressor.flush())
        if num_records == 0:
            raise ValueError(f"{path}: no record to write; a shard holds at least one")

    replace_file(Path(path), write)
    return num_records


def frame_record(payload: bytes) -> bytes:
    """Returns the payload between its length and its checksum, as it stands in a shard."""
    length = LENGTH.pack(len(payload))
    return b"".join((length, _CHECKSUM.pack(masked_crc(length)), payload, _CHECKSUM.pack(masked_crc(payload))))
