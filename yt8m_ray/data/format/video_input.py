"""The values that a client gives of one video, by the names of features -> the row that a model reads."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.example import Fields, Values
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.schema import ID_KEYS, LABELS_KEY, MEAN_PREFIX

_NO_ID = b"-"  # stands for the id of a video without one: optional here, required in a shard
_MOST_NAMED, _LONGEST_NAME = 8, 40


def read_video(given: Mapping[str, Any], spec: FeatureSpec, where: str) -> VideoRow:
    """Returns the row of a video; its id is not read, and neither are other names.

    Frames are base64 text of all their bytes, one list of bytes or one list a frame; means are numbers [n], and a
    video-level model takes the frames of a mean, too.

    Raises:
        ValueError: names the video, the feature, what was expected and what was found; a `binascii.Error` for base64.
    """
    context: dict[str, Values] = {}
    sequences: dict[str, npt.NDArray[np.uint8]] = {}
    for name, size in spec.sizes.items():
        frame_name = name.removeprefix(MEAN_PREFIX)
        if spec.is_video_level and name in given:
            context[name] = _mean(given[name], f"{where}.{name}")
        elif frame_name in given:
            sequences[frame_name] = _frames(given[frame_name], frame_name, size, spec, where)
    return checked_row(context, sequences, spec, where, found=given)


def checked_row(
    context: Mapping[str, Values],
    sequences: Mapping[str, Any],
    spec: FeatureSpec,
    where: str,
    *,
    found: Iterable[str] | None = None,
) -> VideoRow:
    """Returns the row of a video that needs no id; ValueError says what is wrong, `found` what names were given.

    It has no more frames than the model reads, where a shard's video would be cut.
    """
    for name in spec.sizes:
        frame_name = name.removeprefix(MEAN_PREFIX)
        if name not in context and frame_name not in sequences:
            given = {*context, *sequences} if found is None else found
            raise ValueError(f"{where}: {missing_feature(name, spec, given)}")
        if name not in context or not spec.is_video_level:
            check_num_frames(len(sequences[frame_name]), frame_name, spec, where)
    named = dict(context)
    if not any(key in named for key in ID_KEYS):
        named[ID_KEYS[0]] = [_NO_ID]
    try:
        return to_row(Fields(named, dict(sequences)), spec, labelled=False)
    except RecordError as error:
        raise ValueError(f"{where}: {error.reason}") from None


def check_num_frames(num_frames: int, name: str, spec: FeatureSpec, where: str) -> None:
    """Checks that a video has 1..max_frames frames of a feature; ValueError if not."""
    if not 1 <= num_frames <= spec.max_frames:
        # Where counting costs, it stops at the first frame that is too many.
        more = " or more" if num_frames == spec.max_frames + 1 else ""
        raise ValueError(f"{where}.{name}: expected 1 to {spec.max_frames} frames, found {num_frames}{more}")


def missing_feature(name: str, spec: FeatureSpec, found: Iterable[str]) -> str:
    """Returns what to say of a video without the feature `name`: what may be given, and, of what was, the first."""
    ways = f"the frames {name}"
    if spec.is_video_level:
        ways = f"{name}, or the frames {name.removeprefix(MEAN_PREFIX)} to average"
    names = sorted({*found} - {*ID_KEYS, LABELS_KEY})
    shown = ", ".join(each[:_LONGEST_NAME] for each in names[:_MOST_NAMED]) or "none"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"this model needs {ways}; found {shown}{more}"


def shorten(value: object) -> str:
    """Returns what to say of a value that a client sent, in 60 characters at most."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _mean(numbers: Any, place: str) -> npt.NDArray[np.float32]:
    try:
        values = np.asarray(numbers, np.float64)
    except (ValueError, TypeError):
        values = np.empty(())
    if values.ndim != 1:
        raise ValueError(f"{place}: expected a list of numbers, found {shorten(numbers)}")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and `to_row` refuses it
        return values.astype(np.float32)


def _frames(value: Any, name: str, size: int, spec: FeatureSpec, where: str) -> npt.NDArray[np.uint8]:
    place = f"{where}.{name}"
    if isinstance(value, str):
        # Four characters hold three bytes; what is surely too long is not decoded only to be refused.
        if len(value) > 4 * (size * (spec.max_frames + 1) // 3 + 1):
            check_num_frames(len(value) // 4 * 3 // size, name, spec, where)
        try:
            data = base64.b64decode(value, validate=True)
        except ValueError as error:
            raise binascii.Error(f"{place}: not base64 (standard alphabet, no line breaks): {error}") from None
    elif not isinstance(value, list):
        raise ValueError(f"{place}: expected a text or a list, found {shorten(value)}")
    elif value and isinstance(value[0], list):
        for index, frame in enumerate(value):
            if not isinstance(frame, list) or len(frame) != size:
                found = len(frame) if isinstance(frame, list) else shorten(frame)
                raise ValueError(f"{place}[{index}]: expected {size} values a frame, found {found}")
        data = b"".join(_to_bytes(frame, f"{place}[{index}]") for index, frame in enumerate(value))
    else:
        data = _to_bytes(value, place)
    if len(data) % size:
        raise ValueError(f"{place}: expected a multiple of {size} bytes ({size} a frame), found {len(data)}")
    return np.frombuffer(data, np.uint8).reshape(-1, size)


def _to_bytes(values: list[Any], place: str) -> bytes:
    if set(map(type, values)) <= {int}:  # else True would be a 1
        with contextlib.suppress(ValueError):  # of a number that is no byte; the search below names it
            return bytes(values)
    index = next(i for i, value in enumerate(values) if type(value) is not int or not 0 <= value <= 255)
    raise ValueError(f"{place}[{index}]: expected a whole number from 0 to 255, found {shorten(values[index])}")
