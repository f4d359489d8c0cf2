"""The records of a stream of bytes: where they are, how the stream is packed, how to continue behind a bad one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import crc32c
import numpy as np

from yt8m_ray.data.errors import CorruptRecordError, RecordError, RecordTooLargeError
from yt8m_ray.data.format.record_scan import (
    BAD_CHECKSUM,
    BAD_LENGTH,
    FOOTER_BYTES,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    find_header,
    find_records,
)
from yt8m_ray.data.storage.byte_stream import WINDOW_BITS, ByteStream, Compression, Inflater, Window, has_zlib_header

# Takes a record that cannot be read; reading then goes on behind it.
OnCorrupt = Callable[[CorruptRecordError], None]
_HEADER = struct.Struct("<QI")
LENGTH = struct.Struct("<Q")
_MOST_RECORDS = 4096  # found at once: a window of short records has so many
_SEARCH_BYTES = 1 << 20
# Besides as much as has been read: a search behind every bad record is to cost no more than reading twice.
_MOST_READ_AGAIN = 1 << 27

N = TypeVar("N", int, np.ndarray)


@dataclass(frozen=True, slots=True)
class Records:
    """Records that follow one another."""

    data: np.ndarray  # uint8 [N], the bytes that hold them; valid for as long as it is kept, and not to be written to
    starts: np.ndarray  # int64 [R], where the payloads start in `data`
    ends: np.ndarray  # and where they end
    first: int  # index of the first record in the shard
    offset: int  # where `data` begins in the uncompressed stream

    def __len__(self) -> int:
        return len(self.starts)

    def between(self, start: int, stop: int) -> Records:
        return Records(self.data, self.starts[start:stop], self.ends[start:stop], self.first + start, self.offset)

    def offset_of(self, index: int) -> int:
        """Returns the first byte of a record in the uncompressed stream."""
        return self.offset + int(self.starts[index]) - HEADER_BYTES

    def payloads(self) -> list[memoryview]:
        view = self.data.data.toreadonly()
        return [view[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]

    def checksum_errors(self) -> dict[int, RecordError]:
        """Returns the error of each record, ascending, whose payload is not the one that was written."""
        # All at once: for a short record, arithmetic on single integers would cost as much as the checksum.
        crcs = _masked(np.array([crc32c.crc32c(payload) for payload in self.payloads()], np.int64))
        stored = self.data[self.ends[:, None] + np.arange(FOOTER_BYTES)].view("<u4").ravel()
        bad = np.flatnonzero(crcs != stored).tolist()
        sizes = self.ends - self.starts
        return {i: RecordError(f"the checksum of its {sizes[i]} bytes does not match", "crc") for i in bad}


def masked_crc(data: bytes | memoryview) -> int:
    """Returns the CRC-32C rotated and shifted, as TFRecord stores it."""
    return _masked(crc32c.crc32c(data))


def _masked(crc: N) -> N:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Framing:
    """Finds the records of a stream, and continues behind one that is bad; arguments as in `read_records`."""

    def __init__(
        self,
        stream: ByteStream,
        path: str,
        compression: Compression,
        on_corrupt: OnCorrupt | None,
        *,
        max_record_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self.is_packed = False  # known once a record has been looked for
        self._max_record_bytes = max_record_bytes  # a payload that promises more is not waited for
        self._window = Window(stream)
        self._path, self._on_corrupt = path, on_corrupt
        self._compression: Compression | None = compression  # None once the window's bytes are uncompressed ones
        self._record = self._offset = 0
        self._num_read_again = 0
        self._at_end = False

    def reject(self, record: int, offset: int, error: RecordError) -> None:
        """Passes a bad record to `on_corrupt`, or raises its error where there is no such function."""
        corrupt = CorruptRecordError(self._path, record, offset, error.reason, error.cause)
        if self._on_corrupt is None:
            raise corrupt from error
        self._on_corrupt(corrupt)

    def next_records(self) -> Records | None:
        """Returns the next whole records, one or more, or None at the end of the stream."""
        # An error of the stream itself, such as BlockingIOError, changes nothing: the next call goes on from there.
        while not self._at_end:
            try:
                records = self._find()
            except RecordError as error:
                self.reject(self._record, self._offset, error)
                self._record += 1
                self._search()
            else:
                return records
        return None

    def has_moved_back(self, records: Records, bad: int) -> bool:
        """Goes on behind the header of a record with a wrong checksum, if its length may be what is wrong.

        Where that is so, and True is returned, whatever was found behind that record is found again.
        """
        behind = int(records.ends[bad]) + FOOTER_BYTES
        # The length is right where no sound header comes before that of the record found next.
        if bad + 1 < len(records):
            first = int(records.starts[bad]) - HEADER_BYTES + 1
            if first + find_header(records.data[first : behind + HEADER_BYTES]) == behind:
                return False
        num_back = len(records.data) - int(records.starts[bad]) + HEADER_BYTES
        self._num_read_again += num_back
        if self._num_read_again > _MOST_READ_AGAIN + records.offset:
            return False  # lengths within one another would cost the square of the shard's size
        self._window.give_back(num_back)
        self._record = records.first + bad + 1
        self._offset = records.offset_of(bad)
        self._search()
        return True

    def _find(self) -> Records | None:
        if self._compression is not None:
            unpacked = _unpacked(self._window, self._compression)
            self.is_packed = unpacked is not self._window
            self._window, self._compression = unpacked, None
        found = self._window.fill(HEADER_BYTES)
        if found == 0:
            self._at_end = True
            if self._record == 0:
                raise RecordError("0 bytes: no record", "length")
            return None
        # Whatever waits whole is found at once; only where that is nothing, more is read, for one record.
        starts, ends = np.empty(_MOST_RECORDS, np.int64), np.empty(_MOST_RECORDS, np.int64)
        count, used, status = find_records(self._window.peek(found), starts, ends)
        if count == 0:
            found = self._fill_one(found, status)
            count, used, status = find_records(self._window.peek(found), starts, ends)
        records = Records(self._window.take(used), starts[:count], ends[:count], self._record, self._offset)
        self._record += count
        self._offset += used
        return records

    def _fill_one(self, found: int, status: int) -> int:
        """Reads until the next record waits whole, and returns how much waits; RecordError where it cannot be had."""
        is_first = self._record == 0
        if found < HEADER_BYTES:
            suffix = "; not a TFRecord shard" if is_first else ""
            self._at_end = True
            raise RecordError(f"{HEADER_BYTES} bytes of header expected, {found} found{suffix}", "length")
        if status == BAD_CHECKSUM:
            prefix = "not a TFRecord shard: " if is_first else ""
            raise RecordError(f"{prefix}the checksum of the record's length does not match", "crc")
        length, _ = _HEADER.unpack(self._window.peek(HEADER_BYTES).data)
        if status == BAD_LENGTH:
            raise RecordError(f"{length} bytes promised, at most {MAX_PAYLOAD_BYTES} are possible", "length")
        if length > self._max_record_bytes:
            raise RecordTooLargeError(f"{length} bytes promised, at most {self._max_record_bytes} are taken", "length")
        found = self._window.fill(HEADER_BYTES + length + FOOTER_BYTES)
        if found < HEADER_BYTES + length + FOOTER_BYTES:
            found -= HEADER_BYTES
            if found < length:
                raise RecordError(f"{length} bytes promised, {found} found", "length")
            raise RecordError(f"{FOOTER_BYTES} bytes of checksum expected, {found - length} found", "length")
        return found

    def _search(self) -> None:
        """Moves to the next sound header behind the one at the window's start, or to the end of the stream."""
        skipped = 1
        while not self._at_end:
            self._offset += len(self._window.take(skipped))
            try:
                found = self._window.fill(_SEARCH_BYTES)
            except RecordError:  # the stream breaks off; `_find` meets that again, and says where
                found = self._window.fill(0)
            position = find_header(self._window.peek(found))
            if position >= 0:
                self._offset += len(self._window.take(position))
                return
            self._at_end = found < _SEARCH_BYTES
            skipped = found - HEADER_BYTES + 1  # a header may begin in the last bytes


def _unpacked(window: Window, compression: Compression) -> Window:
    """Returns a window on the uncompressed bytes; an empty stream stays as it is."""
    start = window.peek(min(window.fill(HEADER_BYTES), HEADER_BYTES)).tobytes()
    if compression == "auto":
        compression = detect_compression(start)
        if compression != "none":
            head = window.peek(window.fill(_SEARCH_BYTES))
            # The first length may be damaged, and one in 31 such looks like the start of a ZLIB stream.
            if find_header(_unpack_start(head, compression)) < 0 <= find_header(head):
                compression = "none"
    return window if compression == "none" or not start else Window(Inflater(window, compression))


def detect_compression(start: bytes) -> Compression:
    """Returns how a shard is packed that starts with these bytes, a header's length of them or more."""
    # A checksum decides first: the length 35,615 is spelled 1f 8b, like the start of a GZIP stream.
    if len(start) >= HEADER_BYTES and masked_crc(start[: LENGTH.size]) == _HEADER.unpack_from(start)[1]:
        return "none"
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    return "zlib" if has_zlib_header(start) else "none"


def _unpack_start(packed: np.ndarray, compression: Compression) -> np.ndarray:
    try:
        start = zlib.decompressobj(WINDOW_BITS[compression]).decompress(packed.data, HEADER_BYTES)
    except zlib.error:
        start = b""
    return np.frombuffer(start, np.uint8)
