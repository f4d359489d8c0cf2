"""One codec for tf.train.Example and tf.train.SequenceExample, without TensorFlow.

Both messages keep their features in field 1 (`Example.features`, `SequenceExample.context`), so one decoder reads both.
Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.wire import FIELD_1, FIELD_2, UNLIMITED, Budget, check_feature, iterate_fields, view_frames

# What a feature holds: float32 [n], int64 [n] or n byte strings.
Values: TypeAlias = "npt.NDArray[Any] | list[bytes]"
_Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fields:
    """The features of one record by name. Arrays of frames may be read-only views of the payload: copy what is kept."""

    # One that holds no list at all is left out, as TensorFlow treats it as missing.
    context: dict[str, Values]
    # One byte string a step, all of one size, is a uint8 array [T, size]; anything else a list with the values of each
    # step, `[]` where there is none.
    sequences: dict[str, npt.NDArray[np.uint8] | list[Values]]


def decode_record(
    payload: bytes | memoryview, *, max_steps: int | None = None, max_fields: int | None = None
) -> Fields:
    """Returns the features of a serialized Example or SequenceExample.

    Args:
        max_steps: A feature list whose steps differ in their layout is cut to so many; None reads all of it.
        max_fields: Most fields and packed integers of the message, besides steps that are laid out alike, which cost
            next to nothing; None takes any number.

    Raises:
        RecordError: the payload is no such message, or has more fields. Memory stays in proportion to the payload.
    """
    # The entries are split here and only their values are left to protobuf: its maps drop entries that hold unknown
    # fields, it copies frames (12 times slower where all are laid out alike), it stops at no number of fields (0.2 s
    # for 8 MiB of them, with the GIL), and says nothing of what is wrong or where.
    data = memoryview(payload)
    budget = Budget(math.inf if max_fields is None else max_fields)
    fields = Fields({}, {})
    for tag, start, end in iterate_fields(data, 0, len(data), budget):
        if tag == FIELD_1:
            for name, ranges in _iterate_map(data, start, end, budget):
                values = _decode_feature(data, ranges, budget)
                if values is not None:
                    fields.context[name] = values
                else:  # the last entry of a name counts
                    fields.context.pop(name, None)
        elif tag == FIELD_2:
            for name, ranges in _iterate_map(data, start, end, budget):
                fields.sequences[name] = _decode_steps(data, ranges, budget, max_steps)
    return fields


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Returns a serialized tf.train.Example, its features in the order of their names.

    Floating arrays [n] become float lists, integer arrays [n] int64 lists, lists of bytes bytes lists.
    """
    message = _messages().Example()
    _set_features(message.features, features)
    return bytes(message.SerializeToString(deterministic=True))


def encode_sequence_example(
    context: Mapping[str, Values], sequences: Mapping[str, npt.NDArray[np.uint8] | Sequence[Values]]
) -> bytes:
    """Returns a serialized tf.train.SequenceExample, its features in the order of their names.

    Sequences are uint8 arrays [T, size], whose rows become one byte string a step, or the values of each step.
    """
    message = _messages().SequenceExample()
    _set_features(message.context, context)
    message.feature_lists.SetInParent()
    for name, steps in sequences.items():
        if isinstance(steps, np.ndarray) and (steps.ndim != 2 or steps.dtype != np.uint8):
            raise ValueError(f"{name}: expected a uint8 array [T, size], found {steps.dtype} {list(steps.shape)}")
        feature_list = message.feature_lists.feature_list[name]
        for values in [[frame.tobytes()] for frame in steps] if isinstance(steps, np.ndarray) else steps:
            _set_feature(feature_list.feature.add(), name, values)
    return bytes(message.SerializeToString(deterministic=True))


@functools.cache
def _messages() -> Any:
    # `import tfrecord` would import torch, for a second and 226 MB; and a process that holds these messages cannot
    # import TensorFlow, which has others of the same names. So they are loaded alone, when they are first needed.
    package = importlib.util.find_spec("tfrecord")
    spec = PathFinder.find_spec("example_pb2", package.submodule_search_locations if package else [])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("tfrecord.example_pb2: the package tfrecord is not installed", name="tfrecord")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _iterate_map(data: memoryview, start: int, end: int, budget: Budget) -> Iterator[tuple[str, list[_Range]]]:
    """Yields the name of each map entry and where its value lies."""
    # A message in several parts, which a serializer may write, is their concatenation.
    for tag, entry_start, entry_end in iterate_fields(data, start, end, budget):
        if tag != FIELD_1:
            continue
        name, ranges = "", []
        for part, part_start, part_end in iterate_fields(data, entry_start, entry_end, budget):
            if part == FIELD_1:
                name = _decode_name(data, part_start, part_end)
            elif part == FIELD_2 and part_end > part_start:
                ranges.append((part_start, part_end))
        yield name, ranges


def _decode_name(data: memoryview, start: int, end: int) -> str:
    try:
        return str(data[start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"the name of a feature at byte {start} of the record is not UTF-8") from error


def _decode_feature(data: memoryview, ranges: list[_Range], budget: Budget) -> Values | None:
    """Returns the values of a Feature, None where it holds no list."""
    if budget.left < math.inf:  # else nothing is to be counted
        for start, end in ranges:
            check_feature(data, start, end, budget)
    # protobuf reads what is sound; what it refuses is read again for the reason.
    try:
        feature = _messages().Feature.FromString(b"".join(data[start:end] for start, end in ranges))
    except DecodeError:
        for start, end in ranges:
            check_feature(data, start, end, UNLIMITED)
        raise RecordError(f"the feature at byte {ranges[0][0]} of the record is nested too deep") from None
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    values = getattr(feature, kind).value
    if kind == "bytes_list":
        return list(values)
    return np.array(values, np.float32 if kind == "float_list" else np.int64)


def _decode_steps(
    data: memoryview, ranges: list[_Range], budget: Budget, max_steps: int | None
) -> npt.NDArray[np.uint8] | list[Values]:
    frames = view_frames(data, *ranges[0]) if len(ranges) == 1 else None
    if frames is not None:
        return frames
    steps: list[Values] = []
    for start, end in ranges:
        for tag, step_start, step_end in iterate_fields(data, start, end, budget):
            if len(steps) == max_steps:
                break
            if tag == FIELD_1:
                values = _decode_feature(data, [(step_start, step_end)], budget)
                steps.append([] if values is None else values)
    # Frames that view_frames missed, as their lengths are spelled in more bytes than needed or fields stand between.
    strings = [values[0] for values in steps if isinstance(values, list) and len(values) == 1]
    if len(strings) < len(steps) or len({len(string) for string in strings}) != 1:
        return steps
    return np.frombuffer(b"".join(strings), np.uint8).reshape(len(strings), len(strings[0]))


def _set_features(message: Any, features: Mapping[str, Values]) -> None:
    message.SetInParent()
    for name, values in features.items():
        _set_feature(message.feature[name], name, values)


def _set_feature(feature: Any, name: str, values: Values) -> None:
    numbers: list[Any]
    if isinstance(values, list):
        kind, numbers = feature.bytes_list, values
    elif values.ndim == 1 and values.dtype.kind == "f":
        kind, numbers = feature.float_list, values.astype(np.float32).tolist()
    elif values.ndim == 1 and values.dtype.kind in "iu":
        kind, numbers = feature.int64_list, values.tolist()
    else:
        raise ValueError(
            f"{name}: expected bytes in a list, or floats or integers in an array [n]; "
            f"found {values.dtype} {list(values.shape)}"
        )
    kind.SetInParent()
    kind.value.extend(numbers)
