"""What is said about a bad record: the reason alone, and the reason with its place."""

from __future__ import annotations

from typing import Literal

from yt8m_ray.errors import YT8MError

# Why a record is refused: a checksum, a length or truncation, its content, a class id out of range, a feature's value
# that is not a finite number.
Cause = Literal["crc", "length", "parse", "label", "value"]
# Why a sound record is left out where labels are needed: it has none. An empty list of labels is not that.
UNLABELLED = "unlabelled"


class RecordError(YT8MError, ValueError):
    """A record's bytes or fields are bad; raised where the path and the position are not known."""

    def __init__(self, reason: str, cause: Cause = "parse") -> None:
        super().__init__(reason, cause)
        self.reason = reason
        self.cause: Cause = cause

    def __str__(self) -> str:
        return self.reason


class RecordTooLargeError(RecordError):
    """A record may be sound, and is longer than the reader takes."""


class CorruptRecordError(YT8MError, ValueError):
    """A shard holds a bad record; `offset` is its first byte in the uncompressed stream."""

    def __init__(self, path: str, record: int, offset: int, reason: str, cause: Cause) -> None:
        # All arguments go to the base class: that is what lets the error cross a process boundary by pickle.
        super().__init__(path, record, offset, reason, cause)
        self.path, self.record, self.offset = path, record, offset
        self.reason, self.cause = reason, cause

    def __str__(self) -> str:
        return f"{self.path}: record {self.record} at byte {self.offset}: {self.reason}"
