"""One codec for tf.train.Example and tf.train.SequenceExample, without TensorFlow.

Both messages keep their features in field 1 (`Example.features`, `SequenceExample.context`), so one decoder reads both.
It gives what protobuf gives for every legal encoding: lists packed or not, fields in any order, unknown fields
skipped, the last of equal map keys, messages that occur twice merged. Schema:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.frames import encode_frames, stack_frames, view_frames
from yt8m_ray.data.format.wire import (
    DELIMITED,
    FIXED32,
    UNLIMITED,
    VARINT,
    Budget,
    content_start,
    encode_delimited,
    encode_varint,
    iterate_fields,
    read_varint,
)

Values: TypeAlias = "npt.NDArray[Any] | list[bytes]"
"""What a feature holds: float32 [n], int64 [n] or n byte strings."""

_FIELD_1 = 1 << 3 | DELIMITED
_FIELD_2 = 2 << 3 | DELIMITED
_BYTES_LIST = 1 << 3 | DELIMITED
_FLOAT_LIST = 2 << 3 | DELIMITED
_INT64_LIST = 3 << 3 | DELIMITED
_LISTS = (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST)
_UNPACKED_FLOAT = 1 << 3 | FIXED32
_UNPACKED_INT64 = 1 << 3 | VARINT
_FLOAT32 = np.dtype("<f4")

_Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fields:
    """The features of one record. Arrays may be read-only, unaligned views of the payload: copy what is kept.

    Attributes:
        context: Features by name; one that holds no list at all is left out, as TensorFlow treats it as missing.
        sequences: Feature lists by name. One byte string a step, all of one size, is a uint8 array [T, size]; anything
            else is a list with the values of each step, which is `[]` for a list without steps.
    """

    context: dict[str, Values]
    sequences: dict[str, npt.NDArray[np.uint8] | list[Values]]


def decode_record(
    payload: bytes | memoryview, *, max_steps: int | None = None, max_fields: int | None = None
) -> Fields:
    """Returns the features of a serialized Example or SequenceExample.

    Args:
        payload: The message.
        max_steps: A feature list whose steps differ in their layout is cut to so many; None reads all of it.
        max_fields: Of how many fields and packed integers the message may consist, apart from the steps of feature
            lists that are all laid out alike, which cost next to nothing; None takes any number.

    Raises:
        RecordError: the payload is no such message, or has more fields. Memory stays in proportion to the payload,
            whatever it says.
    """
    data, budget = memoryview(payload), UNLIMITED if max_fields is None else Budget(max_fields)
    context: dict[str, Values] = {}
    sequences: dict[str, npt.NDArray[np.uint8] | list[Values]] = {}
    for tag, start, end in iterate_fields(data, 0, len(data), budget):
        if tag == _FIELD_1:
            for name, ranges in _iterate_map(data, budget, start, end):
                values = _decode_feature(data, budget, ranges)
                if values is not None:
                    context[name] = values
                else:
                    context.pop(name, None)
        elif tag == _FIELD_2:
            for name, ranges in _iterate_map(data, budget, start, end):
                sequences[name] = _decode_steps(data, budget, ranges, max_steps)
    return Fields(context, sequences)


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Returns a serialized tf.train.Example, its features in the order given.

    Args:
        features: Floating arrays [n] become float lists, integer arrays [n] int64 lists, lists of bytes bytes lists.
    """
    return encode_delimited(1, _encode_features(features))


def encode_sequence_example(
    context: Mapping[str, Values], sequences: Mapping[str, npt.NDArray[np.uint8] | Sequence[Values]]
) -> bytes:
    """Returns a serialized tf.train.SequenceExample, its features in the order given.

    Args:
        context: As in `encode_example`.
        sequences: uint8 arrays [T, size], whose rows become one byte string a step, or the values of each step.
    """
    lists = []
    for name, steps in sequences.items():
        if not isinstance(steps, np.ndarray):
            content = b"".join(encode_delimited(1, _encode_feature(name, values)) for values in steps)
        elif steps.ndim == 2 and steps.dtype == np.uint8:
            content = encode_frames(steps)
        else:
            raise ValueError(f"{name}: expected a uint8 array [T, size], found {steps.dtype} {list(steps.shape)}")
        lists.append(_encode_entry(name, content))
    return encode_delimited(1, _encode_features(context)) + encode_delimited(2, b"".join(lists))


def _iterate_map(data: memoryview, budget: Budget, start: int, end: int) -> Iterator[tuple[str, list[_Range]]]:
    """Yields the name of each map entry and where its value lies; a value in several parts is their concatenation."""
    for tag, entry_start, entry_end in iterate_fields(data, start, end, budget):
        if tag == _FIELD_1:
            yield _split_entry(data, budget, entry_start, entry_end)


def _split_entry(data: memoryview, budget: Budget, start: int, end: int) -> tuple[str, list[_Range]]:
    if end - start >= 4 and data[start] == _FIELD_1 and data[start + 1] < 0x80:
        name_end = start + 2 + data[start + 1]
        value_start = content_start(data, name_end, end, _FIELD_2)
        if value_start >= 0:
            return _decode_name(data, start + 2, name_end), [(value_start, end)]
    name, ranges = "", []
    for tag, part_start, part_end in iterate_fields(data, start, end, budget):
        if tag == _FIELD_1:
            name = _decode_name(data, part_start, part_end)
        elif tag == _FIELD_2 and part_end > part_start:
            ranges.append((part_start, part_end))
    return name, ranges


def _decode_name(data: memoryview, start: int, end: int) -> str:
    try:
        return str(data[start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"the name of a feature at byte {start} of the record is not UTF-8") from error


def _decode_feature(data: memoryview, budget: Budget, ranges: list[_Range]) -> Values | None:
    """Returns the values of a Feature, None where it holds no list."""
    if len(ranges) == 1:
        start, end = ranges[0]
        kind = data[start] if start < end else 0
        list_start = content_start(data, start, end, kind) if kind in _LISTS else -1
        if list_start >= 0:
            return _decode_list(data, budget, kind, [(list_start, end)])
    kind = 0
    lists: list[_Range] = []
    for start, end in ranges:
        for tag, list_start, list_end in iterate_fields(data, start, end, budget):
            if tag in _LISTS:
                # Lists of one kind merge; a list of another kind replaces those before it, which must be sound even so.
                if kind not in (0, tag):
                    _decode_list(data, budget, kind, lists)
                    lists = []
                kind = tag
                if list_end > list_start or not lists:
                    lists.append((list_start, list_end))
    return _decode_list(data, budget, kind, lists) if lists else None


def _decode_list(data: memoryview, budget: Budget, kind: int, ranges: list[_Range]) -> Values:
    if kind == _FLOAT_LIST:
        return _decode_floats(data, budget, ranges)
    if kind == _INT64_LIST:
        return _decode_integers(data, budget, ranges)
    return [
        bytes(data[value_start:value_end])
        for start, end in ranges
        for tag, value_start, value_end in iterate_fields(data, start, end, budget)
        if tag == _FIELD_1
    ]


def _decode_floats(data: memoryview, budget: Budget, ranges: list[_Range]) -> npt.NDArray[np.float32]:
    """Returns a view of the payload if the values lie in one piece, else a copy."""
    if len(ranges) == 1:
        start, end = ranges[0]
        piece_start = content_start(data, start, end, _FIELD_1)
        if piece_start >= 0 and (end - piece_start) % 4 == 0:
            return np.frombuffer(data, _FLOAT32, (end - piece_start) // 4, piece_start)
    joined = bytearray()
    for start, end in ranges:
        for tag, piece_start, piece_end in iterate_fields(data, start, end, budget):
            if tag in (_FIELD_1, _UNPACKED_FLOAT):
                if (piece_end - piece_start) % 4:
                    raise RecordError(f"a float list at byte {piece_start} of the record ends within a value")
                joined += data[piece_start:piece_end]
    return np.frombuffer(joined, _FLOAT32) if joined else np.empty(0, _FLOAT32)


def _decode_integers(data: memoryview, budget: Budget, ranges: list[_Range]) -> npt.NDArray[np.int64]:
    values: list[int] = []
    for start, end in ranges:
        for tag, position, piece_end in iterate_fields(data, start, end, budget):
            if tag not in (_FIELD_1, _UNPACKED_INT64):
                continue
            while position < piece_end:
                budget.spend()
                value, position = read_varint(data, position, piece_end)
                values.append(value - (value >> 63 << 64))  # two's complement
    return np.array(values, np.int64)


def _decode_steps(
    data: memoryview, budget: Budget, ranges: list[_Range], max_steps: int | None
) -> npt.NDArray[np.uint8] | list[Values]:
    """Returns the steps of a FeatureList, at most so many where they are not laid out as usual."""
    frames = view_frames(data, *ranges[0]) if len(ranges) == 1 else None
    if frames is not None:
        return frames
    steps: list[Values] = []
    for start, end in ranges:
        for tag, step_start, step_end in iterate_fields(data, start, end, budget):
            if len(steps) == max_steps:
                break
            if tag == _FIELD_1:
                values = _decode_feature(data, budget, [(step_start, step_end)])
                steps.append([] if values is None else values)
    strings = [values[0] for values in steps if isinstance(values, list) and len(values) == 1]
    if len(strings) < len(steps) or len({len(string) for string in strings}) != 1:
        return steps
    return stack_frames(strings)


def _encode_features(features: Mapping[str, Values]) -> bytes:
    return b"".join(_encode_entry(name, _encode_feature(name, values)) for name, values in features.items())


def _encode_entry(name: str, content: bytes) -> bytes:
    return encode_delimited(1, encode_delimited(1, name.encode()) + encode_delimited(2, content))


def _encode_feature(name: str, values: Values) -> bytes:
    if isinstance(values, list):
        return encode_delimited(1, b"".join(encode_delimited(1, value) for value in values))
    if values.ndim == 1 and values.dtype.kind == "f":
        packed = values.astype(_FLOAT32).tobytes()
        return encode_delimited(2, encode_delimited(1, packed) if packed else b"")
    if values.ndim == 1 and values.dtype.kind in "iu":
        packed = b"".join(map(encode_varint, values.tolist()))
        return encode_delimited(3, encode_delimited(1, packed) if packed else b"")
    raise ValueError(
        f"{name}: expected bytes in a list, or floats or integers in an array [n]; "
        f"found {values.dtype} {list(values.shape)}"
    )
