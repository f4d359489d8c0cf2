"""The protobuf wire format: tags, varints and the fields of a message, without a schema.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from yt8m_ray.data.errors import RecordError

VARINT, FIXED64, DELIMITED, START_GROUP, END_GROUP, FIXED32 = range(6)

_MAX_VARINT_BYTES = 10
_MAX_SIZE_BYTES = 5
"""Longest varint of a tag or a length, which have 32 bits."""


class Budget:
    """How many more fields and packed integers of a message are looked at, so that none costs more than it may."""

    __slots__ = ("left",)

    def __init__(self, num_fields: float) -> None:
        self.left = num_fields

    def spend(self) -> None:
        """Takes one field off; RecordError where none is left."""
        self.left -= 1
        if self.left < 0:
            raise RecordError("more fields than a video has")


UNLIMITED = Budget(math.inf)


def read_varint(data: memoryview, position: int, end: int, max_bytes: int = _MAX_VARINT_BYTES) -> tuple[int, int]:
    """Returns the unsigned 64-bit integer at `position` and the position behind it."""
    value = shift = 0
    limit = min(end, position + max_bytes)
    while position < limit:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    if position == end:
        raise RecordError(f"an integer is cut off at byte {end} of the record")
    raise RecordError(f"an integer before byte {position} of the record has more than {max_bytes} bytes")


def read_size(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """Returns the length at `position` and the position behind it, where the content starts."""
    return read_varint(data, position, end, _MAX_SIZE_BYTES)


def iterate_fields(
    data: memoryview, start: int, end: int, budget: Budget = UNLIMITED
) -> Iterator[tuple[int, int, int]]:
    """Yields (tag, start, end) of each field of the message in `data[start:end]`, in the order of the bytes.

    The tag is `field number << 3 | wire type`; start and end enclose the value without its length. Groups, which no
    current message has, are skipped whole.

    Raises:
        RecordError: the bytes are no message: a length reaches beyond its end, a tag is not legal, a group stays open;
            or the budget is spent.
    """
    position = start
    while position < end:
        budget.spend()
        tag = data[position]
        if 8 <= tag < 0x80:
            position += 1
        else:
            tag, position = _read_tag(data, position, end)
        if tag & 7 == DELIMITED:
            size = data[position] if position < end else 0x80
            if size < 0x80:
                position += 1
            else:
                size, position = read_size(data, position, end)
            behind = position + size
            if behind > end:
                raise RecordError(f"{size} bytes promised at byte {position} of the record, {end - position} found")
            yield tag, position, behind
        elif tag & 7 == START_GROUP:
            behind = _skip_group(data, position, end, tag >> 3, budget)
        else:
            behind = _skip_scalar(data, position, end, tag)
            yield tag, position, behind
        position = behind


def content_start(data: memoryview, start: int, end: int, tag: int) -> int:
    """Returns where the content of field `tag` starts if that one field fills `data[start:end]`, else -1.

    The common case of `iterate_fields`, several times faster: most messages of a record hold a single field.
    """
    if end - start < 2 or data[start] != tag:
        return -1
    size, position = data[start + 1], start + 2
    if size >= 0x80:
        size, position = read_size(data, start + 1, end)
    return position if position + size == end else -1


def encode_varint(value: int) -> bytes:
    """Returns the varint of an integer in -2^63..2^64 - 1; a negative one takes ten bytes."""
    value &= 0xFFFFFFFFFFFFFFFF
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_delimited(field: int, content: bytes) -> bytes:
    """Returns a length-delimited field: tag, length, content."""
    return b"".join((encode_varint(field << 3 | DELIMITED), encode_varint(len(content)), content))


def _read_tag(data: memoryview, position: int, end: int) -> tuple[int, int]:
    tag, behind = read_varint(data, position, end, _MAX_SIZE_BYTES)
    if not 8 <= tag < 1 << 32:
        raise RecordError(f"byte {position} of the record holds field number {tag >> 3}, valid are 1 to {2**29 - 1}")
    return tag, behind


def _skip_scalar(data: memoryview, position: int, end: int, tag: int) -> int:
    """Returns the position behind a varint or a fixed-size number."""
    wire_type = tag & 7
    if wire_type == VARINT:
        return read_varint(data, position, end)[1]
    if wire_type not in (FIXED64, FIXED32):
        raise RecordError(f"wire type {wire_type} before byte {position} of the record is not legal there")
    behind = position + (8 if wire_type == FIXED64 else 4)
    if behind > end:
        raise RecordError(f"a number is cut off at byte {end} of the record")
    return behind


def _skip_group(data: memoryview, position: int, end: int, field: int, budget: Budget) -> int:
    """Returns the position behind the end of a group whose start has been read."""
    open_groups = [field]
    while open_groups:
        budget.spend()
        tag, position = _read_tag(data, position, end)
        if tag & 7 == START_GROUP:
            open_groups.append(tag >> 3)
        elif tag & 7 == END_GROUP:
            if open_groups.pop() != tag >> 3:
                raise RecordError(f"the group that ends before byte {position} of the record was not begun")
        elif tag & 7 == DELIMITED:
            size, position = read_size(data, position, end)
            if size > end - position:
                raise RecordError(f"{size} bytes promised at byte {position} of the record, {end - position} found")
            position += size
        else:
            position = _skip_scalar(data, position, end, tag)
    return position
