"""A shard that is fed with bytes as they arrive, for a reader that cannot wait for them, such as an event loop."""

from __future__ import annotations

import io
from collections import deque
from typing import Any

import numpy as np

from yt8m_ray.data.errors import RecordError, RecordTooLargeError
from yt8m_ray.data.format.framing import Framing, Records
from yt8m_ray.data.storage.byte_stream import Compression


class ArrivingShard:
    """Bytes in, whole records out, up to the first bad one."""

    # It holds one record, a window of some megabytes, and what was fed since.

    def __init__(self, name: str, *, max_record_bytes: int, compression: Compression = "auto") -> None:
        self._arrived = _Arrived()
        self._framing = Framing(self._arrived, name, compression, None, max_record_bytes=max_record_bytes)
        self._max_record_bytes = max_record_bytes
        self._bad: tuple[int, int, RecordError] | None = None

    @property
    def is_packed(self) -> bool:
        """Whether it is compressed, known once a record has been asked for."""
        return self._framing.is_packed

    def feed(self, data: bytes) -> None:
        self._arrived.feed(data)

    def finish(self) -> None:
        self._arrived.is_finished = True

    def next_records(self) -> Records | None:
        """Returns records that have arrived whole, or None: there is none so far, or none at all after `finish`.

        Raises:
            CorruptRecordError: with the first record that is bad or cut short; all before it have been returned. Its
                `__cause__` is a RecordTooLargeError where it may be sound, but is too large.
        """
        if self._bad is not None:  # the records before it have been returned
            self._framing.reject(*self._bad)
        try:
            records = self._framing.next_records()
        except BlockingIOError:
            return None
        if records is None:
            return None
        errors = records.checksum_errors()
        sizes = records.ends - records.starts
        # What arrived whole in one window was not bounded by `Framing`.
        for index in np.flatnonzero(sizes > self._max_record_bytes).tolist():
            reason = f"{sizes[index]} bytes, at most {self._max_record_bytes} are taken"
            errors.setdefault(index, RecordTooLargeError(reason, "length"))
        if not errors:
            return records
        bad = min(errors)
        self._bad = records.first + bad, records.offset_of(bad), errors[bad]
        return records.between(0, bad) if bad else self.next_records()


class _Arrived(io.RawIOBase):
    """The bytes that were fed and not read yet."""

    def __init__(self) -> None:
        super().__init__()
        self.is_finished = False
        self._parts: deque[memoryview] = deque()

    def feed(self, data: bytes) -> None:
        if data:  # reading an empty part would look like the end
            self._parts.append(memoryview(data))

    def readinto(self, buffer: Any, /) -> int:
        if not self._parts:
            if self.is_finished:
                return 0
            raise BlockingIOError("no further bytes have arrived")
        part = self._parts.popleft()
        view = memoryview(buffer)
        num_bytes = min(len(part), len(view))
        view[:num_bytes] = part[:num_bytes]
        if num_bytes < len(part):
            self._parts.appendleft(part[num_bytes:])
        return num_bytes
