"""The fields of a protobuf message, without a schema: where each lies, what is wrong with one, and how many there are.

protobuf itself reads all of a message or says that it cannot. Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.errors import RecordError

_VARINT, _FIXED64, _DELIMITED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
# Tags of the fields that hold messages, texts, or packed values.
FIELD_1, FIELD_2, FIELD_3 = (number << 3 | _DELIMITED for number in (1, 2, 3))

# Seven bits a byte: an integer has 64, a tag or a length 32.
_MAX_VARINT_BYTES, _MAX_SIZE_BYTES = 10, 5


class Budget:
    """How many more fields and packed integers of a message are looked at."""

    __slots__ = ("left",)

    def __init__(self, num_fields: float) -> None:
        self.left = num_fields

    def spend(self) -> None:
        """Takes one field off; RecordError where none is left."""
        self.left -= 1
        if self.left < 0:
            raise RecordError("more fields than a video has")


UNLIMITED = Budget(math.inf)


def iterate_fields(data: memoryview, start: int, end: int, budget: Budget) -> Iterator[tuple[int, int, int]]:
    """Yields (tag, start, end) of each field of the message in `data[start:end]`, in the order of the bytes.

    The tag is `field number << 3 | wire type`; start and end enclose the value without its length.

    Raises:
        RecordError: the bytes are no message: a length reaches beyond its end, a tag is not legal, a group stays open;
            or the budget is spent.
    """
    # Groups, which no current message has, are passed over whole, as every parser does with what it does not know.
    position = start
    open_groups: list[int] = []
    while position < end or open_groups:
        budget.spend()
        # Nearly all tags and lengths are one byte: no call for those.
        if position < end and data[position] < 0x80:
            tag, tag_end = data[position], position + 1
        else:
            tag, tag_end = _read_varint(data, position, end, _MAX_SIZE_BYTES)
        field, wire_type = tag >> 3, tag & 7
        if not 1 <= field < 1 << 29:
            raise RecordError(f"byte {position} of the record holds field number {field}, valid are 1 to {2**29 - 1}")
        position = tag_end
        if wire_type == _START_GROUP:
            open_groups.append(field)
            continue
        if wire_type == _END_GROUP and open_groups:
            if open_groups.pop() != field:
                raise RecordError(f"the group that ends before byte {position} of the record was not begun")
            continue
        if wire_type == _DELIMITED:
            if position < end and data[position] < 0x80:
                size, position = data[position], position + 1
            else:
                size, position = _read_varint(data, position, end, _MAX_SIZE_BYTES)
            behind = position + size
            if behind > end:
                raise RecordError(f"{size} bytes promised at byte {position} of the record, {end - position} found")
        elif wire_type == _VARINT:
            behind = _read_varint(data, position, end, _MAX_VARINT_BYTES)[1]
        elif wire_type in (_FIXED64, _FIXED32):
            behind = position + (8 if wire_type == _FIXED64 else 4)
            if behind > end:
                raise RecordError(f"a number is cut off at byte {end} of the record")
        else:
            raise RecordError(f"wire type {wire_type} before byte {position} of the record is not legal there")
        if not open_groups:
            yield tag, position, behind
        position = behind


def check_feature(data: memoryview, start: int, end: int, budget: Budget) -> None:
    """Checks the Feature in `data[start:end]`; RecordError where it is none, or the budget is spent."""
    # Its fields 1, 2 and 3 are lists of strings, floats and integers, the latter two packed or one a field.
    for kind, list_start, list_end in iterate_fields(data, start, end, budget):
        if kind not in (FIELD_1, FIELD_2, FIELD_3):
            continue
        for tag, position, value_end in iterate_fields(data, list_start, list_end, budget):
            if tag == FIELD_1 and kind == FIELD_2 and (value_end - position) % 4:
                raise RecordError(f"a float list at byte {position} of the record ends within a value")
            while tag == FIELD_1 and kind == FIELD_3 and position < value_end:
                budget.spend()
                _, position = _read_varint(data, position, value_end, _MAX_VARINT_BYTES)


def view_frames(data: memoryview, start: int, end: int) -> npt.NDArray[np.uint8] | None:
    """Returns the frames of a FeatureList as a view [T, size], None unless all have the first one's exact layout."""
    # Step, bytes list and value are three nested fields 1. Where each of the three ends the step, and every step begins
    # with the same tags and lengths, the steps repeat with a constant stride, and the bytes can mean nothing else.
    position, step_end, behind = start, None, end
    for _ in range(3):
        tag, position, behind = next(iterate_fields(data, position, behind, UNLIMITED), (0, 0, 0))
        step_end = behind if step_end is None else step_end
        if tag != FIELD_1 or behind != step_end:
            return None
    stride, header = behind - start, bytes(data[start:position])
    if (end - start) % stride:
        return None
    rows = np.frombuffer(data, np.uint8, end - start, start).reshape(-1, stride)
    if rows[:, : len(header)].tobytes() != header * len(rows):
        return None
    return rows[:, len(header) :]


def _read_varint(data: memoryview, position: int, end: int, max_bytes: int) -> tuple[int, int]:
    """Returns the unsigned integer at `position` and the position behind it."""
    value = shift = 0
    limit = min(end, position + max_bytes)
    while position < limit:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    if position == end:
        raise RecordError(f"an integer is cut off at byte {end} of the record")
    raise RecordError(f"an integer before byte {position} of the record has more than {max_bytes} bytes")
