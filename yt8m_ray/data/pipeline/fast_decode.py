"""Compiled loops over payloads: the frames, labels and ids of ordinary records, copied straight into a block."""

# They read the layout that nearly every record has, some ten times faster than Python. A record of another layout, or
# with a fault, is UNUSUAL: `yt8m_ray.data.format.example` reads it, or says what is wrong with it.
#
# A message is made of fields with a tag and a length: a record of the maps 1 (context) and 2 (lists), an entry of a map
# of the name 1 and the value 2, a feature of one list of strings (1), floats (2) or integers (3) with its values in 1.

# ruff: noqa: SIM110 - generator expressions are slower here, or not to be compiled

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from yt8m_ray.compiled import compiled
from yt8m_ray.data.format.features import LabelPolicy
from yt8m_ray.data.format.wire import FIELD_1, FIELD_2, FIELD_3
from yt8m_ray.data.pipeline.byte_loops import are_finite, copy_rows, finish_copies
from yt8m_ray.schema import ID_KEYS, LABELS_KEY

_IGNORED, _OPTIONAL, _REQUIRED = range(3)
_POLICIES: dict[LabelPolicy, int] = {"ignored": _IGNORED, "optional": _OPTIONAL, "required": _REQUIRED}
# Why `pack_records` stopped: no further record, one for the slow decoder, or no room for the next one's frames.
DONE, UNUSUAL, FULL = range(3)
# Keys before those of the features, in this order: two spellings of the id, and the labels.
_ID, _OTHER_ID, _LABELS = range(3)
_NUM_FIXED_KEYS = len(ID_KEYS) + 1
_MOST_KEYS = 63  # bits of a set of keys
_UNKNOWN = -1
# Features of a record: what has more is left to the decoder, which has a limit of its own. A map of empty entries, six
# bytes each, would take ten milliseconds a megabyte here.
_MOST_ENTRIES = 1024

_NONE = (-1, -1)
_NO_ENTRY = (-1, -1, -1, -1)
# What `pack_records` returns of a video: the place of its id in the data, and counts; -1 labels without a list.
VIDEO_COLUMNS = ("id_start", "id_end", "num_frames", "num_labels", "seen")
_ID_START, _ID_END, _NUM_FRAMES, _NUM_LABELS, _SEEN = range(len(VIDEO_COLUMNS))


class Reading(NamedTuple):
    """What `pack_records` reads."""

    keys: np.ndarray  # uint8, the names of the keys end to end
    key_ends: np.ndarray  # int64 [K], where each of them ends
    columns: np.ndarray  # int64 [features + 1], the first byte of each feature in a frame, and the bytes of a frame
    max_frames: int
    num_classes: int
    policy: int
    is_video_level: bool


@compiled
def _varint(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """Returns (integer of up to four bytes at `position`, position behind it), else (-1, -1)."""
    value = shift = 0
    while position < end and shift < 28:
        byte = int(data[position])
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return _NONE


@compiled
def _size(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """Returns (length at `position`, position behind it) of something that ends before `end`, else (-1, -1)."""
    size, content = _varint(data, position, end)
    return (size, content) if content + size <= end else _NONE


@compiled
def _only(data: np.ndarray, start: int, end: int, tag: int) -> int:
    """Returns where the content of the field `tag` starts that fills `data[start:end]`, else -1."""
    if start < 0 or start >= end or data[start] != tag:
        return -1
    size, position = _size(data, start + 1, end)
    return position if position >= 0 and position + size == end else -1


@compiled
def _entry(data: np.ndarray, start: int, end: int) -> tuple[int, int, int, int]:
    """Returns (start and end of the name, start and end of the value) of a map entry, else _NO_ENTRY."""
    size, position = _size(data, start + 1, end) if data[start] == FIELD_1 else _NONE
    behind = position + size
    if position < 0 or position >= behind or data[position] != FIELD_1:
        return _NO_ENTRY
    name_size, name_start = _size(data, position + 1, behind)
    name_end = name_start + name_size
    value_start = _only(data, name_end, behind, FIELD_2) if name_start >= 0 else -1
    return (name_start, name_end, value_start, behind) if value_start >= 0 else _NO_ENTRY


@compiled
def _is_text(data: np.ndarray, start: int, end: int) -> bool:
    for position in range(start, end):
        if data[position] >= 0x80:
            return False
    return True


@compiled
def _key(data: np.ndarray, start: int, end: int, keys: np.ndarray, key_ends: np.ndarray) -> int:
    """Returns the index of the name `data[start:end]` among the keys, else _UNKNOWN."""
    key_start = 0
    for index in range(len(key_ends)):
        if key_ends[index] - key_start == end - start:
            for offset in range(end - start):
                if keys[key_start + offset] != data[start + offset]:
                    break
            else:
                return index
        key_start = key_ends[index]
    return _UNKNOWN


@compiled
def _one_string(data: np.ndarray, start: int, end: int) -> int:
    """Returns where the only byte string of the feature `data[start:end]` starts, else -1."""
    return _only(data, _only(data, start, end, FIELD_1), end, FIELD_1)


@compiled
def _are_integers(data: np.ndarray, start: int, end: int) -> bool:
    """Returns whether `data[start:end]` is a sequence of varints, of ten bytes at most."""
    length = 0
    for position in range(start, end):
        length += 1
        if length > 10:
            return False
        if data[position] < 0x80:
            length = 0
    return length == 0


@compiled
def _is_plain(data: np.ndarray, start: int, end: int) -> bool:
    """Returns whether `data[start:end]` is a feature as it is usually written, whatever it holds."""
    if start == end:
        return True
    kind = int(data[start])
    content = _only(data, start, end, kind)
    if content == end:
        return kind in (FIELD_1, FIELD_2, FIELD_3)
    if content < 0:
        return False
    if kind == FIELD_1:
        while content < end:
            size, position = _size(data, content + 1, end) if data[content] == FIELD_1 else _NONE
            if position < 0:
                return False
            content = position + size
        return True
    packed = _only(data, content, end, FIELD_1)
    if packed < 0:
        return False
    if kind == FIELD_2:
        return (end - packed) % 4 == 0
    return _are_integers(data, packed, end) if kind == FIELD_3 else False


@compiled
def _frame_layout(data: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Returns (stride, bytes before each frame) of a list of byte strings of one size, one a step, else (-1, -1)."""
    # Where bytes list and value each end the step, and every step begins with the same tags and lengths, the bytes can
    # mean nothing else.
    size, step_start = _size(data, start + 1, end) if start < end and data[start] == FIELD_1 else _NONE
    if step_start < 0:
        return _NONE
    step_end = step_start + size
    value_start = _one_string(data, step_start, step_end)
    stride, header = step_end - start, value_start - start
    if value_start < 0 or (end - start) % stride:
        return _NONE
    # No branch inside: a difference anywhere leaves a bit.
    difference = np.uint8(0)
    first = np.uint64(start)
    for step in range(start + stride, end, stride):
        position = np.uint64(step)
        for offset in range(np.uint64(header)):
            difference |= data[position + offset] ^ data[first + offset]
    return (stride, header) if difference == 0 else _NONE


@compiled
def _copy_labels(data: np.ndarray, start: int, end: int, num_classes: int, labels: np.ndarray) -> int:
    """Copies class ids, ascending and each once; returns their number, else -1."""
    content = _only(data, start, end, FIELD_3)
    if content == end:
        return 0
    position = _only(data, content, end, FIELD_1)
    if position < 0 or end - position > len(labels):  # a class id takes a byte or more
        return -1
    count = 0
    while position < end:
        value, position = _varint(data, position, end)
        if not 0 <= value < num_classes:
            return -1
        # Insertion: a video has some three labels, mostly in their order.
        place = count
        while place > 0 and labels[place - 1] > value:
            place -= 1
        if place > 0 and labels[place - 1] == value:
            continue
        for index in range(count, place, -1):
            labels[index] = labels[index - 1]
        labels[place] = value
        count += 1
    return count


@compiled
def _take_feature(
    data: np.ndarray, start: int, end: int, key: int, reading: Reading, frames: np.ndarray, video: np.ndarray
) -> int:
    """Copies the frames of a feature, and their number to `video`; returns DONE, UNUSUAL or FULL."""
    column = reading.columns[key - _NUM_FIXED_KEYS]
    size = reading.columns[key - _NUM_FIXED_KEYS + 1] - column
    if reading.is_video_level:  # one packed list of floats is the video's only frame
        position = _only(data, _only(data, start, end, FIELD_2), end, FIELD_1)
        if position < 0 or end - position != size or not are_finite(data, position, end):
            return UNUSUAL
        stride, num_frames, kept = size, 1, 1
    else:
        stride, header = _frame_layout(data, start, end)
        if stride - header != size or stride < 0:
            return UNUSUAL
        position, num_frames = start + header, (end - start) // stride
        kept = min(num_frames, reading.max_frames)
    if video[_NUM_FRAMES] >= 0 and video[_NUM_FRAMES] != num_frames:
        return UNUSUAL
    if kept > len(frames):
        return FULL
    video[_NUM_FRAMES] = num_frames
    copy_rows(data, position, stride, kept, frames, column, size)
    return DONE


@compiled
def _take_entry(
    data: np.ndarray,
    entry: tuple[int, int, int, int],
    is_context: bool,
    reading: Reading,
    frames: np.ndarray,
    labels: np.ndarray,
    video: np.ndarray,
) -> int:
    """Copies what a map entry holds; returns DONE, UNUSUAL or FULL."""
    name_start, name_end, start, end = entry
    key = _key(data, name_start, name_end, reading.keys, reading.key_ends)
    # Means, labels and ids are read from the context alone, frames from the lists alone; elsewhere a name says nothing.
    if is_context != (reading.is_video_level or key < _NUM_FIXED_KEYS):
        key = _UNKNOWN
    if key == _LABELS and reading.policy == _IGNORED:
        key = _UNKNOWN
    if key == _UNKNOWN:  # not read, but a record with a fault anywhere is a bad one
        if is_context:
            return DONE if _is_plain(data, start, end) else UNUSUAL
        return DONE if start == end or _frame_layout(data, start, end)[0] > 0 else UNUSUAL
    bit = np.int64(1) << max(key, _OTHER_ID)  # both spellings of the id are one key
    if video[_SEEN] & bit:  # of two entries of one name the last counts, which the decoder sees to
        return UNUSUAL
    video[_SEEN] |= bit
    if key >= _NUM_FIXED_KEYS:
        return _take_feature(data, start, end, key, reading, frames, video)
    if key == _LABELS:
        video[_NUM_LABELS] = _copy_labels(data, start, end, reading.num_classes, labels)
        return DONE if video[_NUM_LABELS] >= 0 else UNUSUAL
    video[_ID_START], video[_ID_END] = _one_string(data, start, end), end
    is_id = 0 <= video[_ID_START] < end and _is_text(data, video[_ID_START], end)
    return DONE if is_id else UNUSUAL


@compiled
def _pack_one(
    data: np.ndarray, start: int, end: int, reading: Reading, frames: np.ndarray, labels: np.ndarray, video: np.ndarray
) -> int:
    """Copies one record's frames and labels and fills `video`; returns DONE, UNUSUAL or FULL."""
    video[:] = -1
    video[_SEEN] = 0
    has_context = has_lists = False
    position, num_entries = start, 0
    while position < end:
        is_context = data[position] == FIELD_1
        if (has_context if is_context else has_lists) or (not is_context and data[position] != FIELD_2):
            return UNUSUAL
        has_context, has_lists = has_context or is_context, has_lists or not is_context
        size, inner = _size(data, position + 1, end)
        if inner < 0:
            return UNUSUAL
        position = inner + size
        while inner < position:
            entry = _entry(data, inner, position)
            num_entries += 1
            # A name that is not ASCII may not be UTF-8 either, which the decoder looks at.
            if entry[0] < 0 or num_entries > _MOST_ENTRIES or not _is_text(data, entry[0], entry[1]):
                return UNUSUAL
            status = _take_entry(data, entry, is_context, reading, frames, labels, video)
            if status != DONE:
                return status
            inner = entry[3]
    num_features = len(reading.columns) - 1
    needed = ((np.int64(1) << num_features) - 1) << _NUM_FIXED_KEYS | np.int64(1) << _OTHER_ID
    if reading.policy == _REQUIRED:
        needed |= np.int64(1) << _LABELS
    return DONE if video[_SEEN] & needed == needed else UNUSUAL


@compiled
def pack_records(
    data: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    reading: Reading,
    frames: np.ndarray,
    labels: np.ndarray,
    videos: np.ndarray,
) -> tuple[int, int, int, int]:
    """Copies the frames and labels of records, in order, until one is unusual or does not fit.

    Args:
        data: uint8 [N], where the payloads lie.
        starts: int64 [R], first bytes of the payloads; `ends`, the bytes behind them.
        frames: uint8 [rows, bytes a frame], filled from the first on, as are the labels, int32 [room].
        videos: int64 [R, 5], filled with what `VIDEO_COLUMNS` names.

    Returns:
        (records packed, frames, labels, DONE, UNUSUAL or FULL).
    """
    row = label = 0
    count, status = len(starts), DONE
    for index in range(len(starts)):
        video = videos[index]
        status = _pack_one(data, starts[index], ends[index], reading, frames[row:], labels[label:], video)
        if status != DONE:
            count = index
            break
        video[_NUM_FRAMES] = min(video[_NUM_FRAMES], reading.max_frames)
        row += video[_NUM_FRAMES]
        label += max(video[_NUM_LABELS], 0)
    finish_copies()
    return count, row, label, status


def reading_of(
    sizes: Mapping[str, int], *, max_frames: int, num_classes: int, labels: LabelPolicy, video_level: bool
) -> Reading:
    """Returns the description of what `pack_records` reads; a video that lacks labels it needs is unusual.

    `sizes` has the values a frame of each feature: float lists in the context at video level, else byte strings in the
    feature lists.
    """
    keys = [key.encode() for key in (*ID_KEYS, LABELS_KEY, *sizes)]
    if len(keys) > _MOST_KEYS:
        raise ValueError(f"features: {len(sizes)} are more than {_MOST_KEYS - _NUM_FIXED_KEYS}")
    return Reading(
        np.frombuffer(b"".join(keys), np.uint8),
        np.cumsum([len(key) for key in keys]),
        np.cumsum([0, *sizes.values()]) * (4 if video_level else 1),
        max_frames,
        num_classes,
        _POLICIES[labels],
        video_level,
    )
