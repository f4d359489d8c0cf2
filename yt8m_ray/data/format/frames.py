"""A FeatureList with one byte string a step <-> a uint8 array [T, size]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.format.wire import DELIMITED, content_start, encode_delimited, read_size

_FIELD_1 = 1 << 3 | DELIMITED
"""`FeatureList.feature`, `Feature.bytes_list` and `BytesList.value` alike."""


def view_frames(data: memoryview, start: int, end: int) -> npt.NDArray[np.uint8] | None:
    """Returns the frames of a FeatureList as a view [T, size], None unless all have the first one's exact layout.

    Step, bytes list and value are three nested fields 1. Where each of the three ends the step, and every step begins
    with the same tags and lengths, the steps repeat with a constant stride, and the bytes can mean nothing else.
    """
    if start == end or data[start] != _FIELD_1:
        return None
    size, step_start = read_size(data, start + 1, end)
    step_end = step_start + size
    stride = step_end - start
    if (end - start) % stride:
        return None
    list_start = content_start(data, step_start, step_end, _FIELD_1)
    value_start = content_start(data, list_start, step_end, _FIELD_1) if list_start >= 0 else -1
    if value_start < 0:
        return None
    rows = np.frombuffer(data, np.uint8, end - start, start).reshape(-1, stride)
    header = bytes(data[start:value_start])
    if rows[:, : len(header)].tobytes() != header * len(rows):
        return None
    return rows[:, len(header) :]


def stack_frames(frames: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Returns byte strings of one size as an array [T, size], T at least 1."""
    return np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), len(frames[0]))


def encode_frames(frames: npt.NDArray[np.uint8]) -> bytes:
    """Returns the content of a FeatureList with one byte string a step."""
    num_frames, size = frames.shape
    step = encode_delimited(1, encode_delimited(1, encode_delimited(1, bytes(size))))
    header = np.frombuffer(step[: len(step) - size], np.uint8)
    rows = np.empty((num_frames, len(step)), np.uint8)
    rows[:, : len(header)] = header
    rows[:, len(header) :] = frames
    return rows.tobytes()
