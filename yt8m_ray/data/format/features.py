"""The fields of a record -> the row of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.example import Fields
from yt8m_ray.schema import (
    DEQUANTIZATION_OFFSET,
    DEQUANTIZATION_SCALE,
    FRAME_FEATURES,
    ID_KEYS,
    LABELS_KEY,
    MAX_FRAMES,
    MEAN_PREFIX,
    SEGMENT_LABELS_KEY,
)

_MOST_NAMED = 8
# Marks of MediaPipe's own keys: `clip/data_id`, `RGB/feature/floats`.
_MEDIA_SEQUENCE_CLIP, _MEDIA_SEQUENCE_FEATURE = "clip/", "/feature/"
# What requests and tables call other things, or nothing: a feature of such a name could not be asked for.
_TAKEN_NAMES = ("", "video_id", "num_frames")
# What becomes of the dequantized frames; `yt8m_ray.data.pipeline.normalize` describes each.
Normalization = Literal["l2", "unwhitened", "reverse_whitened", "none"]
# Whether a video needs labels. One without a list of them is left out where they are required, and kept as a video of
# unknown classes where they are optional; labels that are ignored are not read, and may be of another vocabulary.
LabelPolicy = Literal["required", "optional", "ignored"]


@dataclass(frozen=True)
class FeatureSpec:
    """What is read of each video."""

    sizes: Mapping[str, int]  # values a frame of each feature, by name, in the order in which they are concatenated
    num_classes: int
    max_frames: int = MAX_FRAMES  # frames after so many are dropped, as the published readers do

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes.values()) < 1 or self.num_classes < 1 or self.max_frames < 1:
            raise ValueError(f"features: expected one or more, and sizes and counts of at least 1, found {self}")
        if taken := [name for name in self.sizes if not may_be_feature(name)]:
            raise ValueError(
                f"features: {taken[0]!r} cannot be the name of a feature: requests call other things "
                f"{' and '.join(filter(None, _TAKEN_NAMES))}, and nothing by an empty name"
            )
        if len({name.startswith(MEAN_PREFIX) for name in self.sizes}) > 1:
            raise ValueError(f"features: {', '.join(self.sizes)} mix video level ({MEAN_PREFIX}*) and frame level")

    @property
    def is_video_level(self) -> bool:
        """Whether a video is one row of float features instead of many frames."""
        return all(name.startswith(MEAN_PREFIX) for name in self.sizes)

    @property
    def dim(self) -> int:
        """Values a frame, over all features."""
        return sum(self.sizes.values())

    @property
    def dtype(self) -> Literal["uint8", "float32"]:
        return "float32" if self.is_video_level else "uint8"


def may_be_feature(name: str) -> bool:
    """Returns whether a feature may have a name; that of a mean is the one of its frames too."""
    return name.removeprefix(MEAN_PREFIX) not in _TAKEN_NAMES


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One video."""

    video_id: str  # as published, or what the shard calls it
    frames: npt.NDArray[Any]  # uint8 [T, D] as stored, T in 0..max_frames; at video level float32 [1, D]
    # Class ids in ascending order, each once; none where the video is of no class, None where its classes are unknown.
    labels: npt.NDArray[np.int32] | None


def to_row(fields: Fields, spec: FeatureSpec, *, labelled: bool = True) -> VideoRow:
    """Returns the video that a record describes; its arrays are its own.

    At video level a record without `mean_rgb` but with the list `rgb` gets the mean of its dequantized frames. Labels
    may be of another vocabulary where they are not read.

    Raises:
        RecordError: a feature is missing, of another kind or size, or has a value that is not finite, features differ
            in their number of frames, the id is missing or not UTF-8, or a class id is out of range.
    """
    frames: npt.NDArray[Any]
    if spec.is_video_level:
        means = [_mean(fields, name, size) for name, size in spec.sizes.items()]
        frames = np.concatenate(means).astype(np.float32).reshape(1, spec.dim)
    else:
        frames = _frames(fields, spec)
    labels = _labels(fields, spec.num_classes) if labelled else None
    return VideoRow(_video_id(fields), frames, labels)


def id_and_labels(fields: Fields, num_classes: int) -> tuple[str, npt.NDArray[np.int32] | None]:
    """Returns the id and the labels of the video that a record describes; as in `VideoRow`, errors as of `to_row`."""
    return _video_id(fields), _labels(fields, num_classes)


def _video_id(fields: Fields) -> str:
    key = next((key for key in ID_KEYS if key in fields.context), None)
    if key is None:
        expected = ", ".join(ID_KEYS)
        raise RecordError(f"the video has no id; expected one of the keys {expected}; {_describe_found(fields)}")
    values = fields.context[key]
    if not isinstance(values, list) or len(values) != 1 or not values[0]:
        raise RecordError(f"{key}: expected one byte string that is not empty, found {_describe(values)}")
    try:
        return values[0].decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"{key}: {values[0][:32]!r} is not UTF-8") from error


def _labels(fields: Fields, num_classes: int) -> npt.NDArray[np.int32] | None:
    values = fields.context.get(LABELS_KEY)
    if values is None:
        return None
    if isinstance(values, list) or values.dtype != np.int64:
        raise RecordError(f"{LABELS_KEY}: expected int64 values, found {_describe(values)}", "label")
    # Three class ids are typical: for so few a set beats np.unique.
    class_ids = sorted(set(values.tolist()))
    if class_ids and not (class_ids[0] >= 0 and class_ids[-1] < num_classes):
        found = class_ids[-1] if class_ids[0] >= 0 else class_ids[0]
        raise RecordError(f"{LABELS_KEY}: class id {found} is out of range, valid are 0 to {num_classes - 1}", "label")
    return np.array(class_ids, np.int32)


def _frames(fields: Fields, spec: FeatureSpec) -> npt.NDArray[np.uint8]:
    features = {name: _feature_frames(fields, name, size) for name, size in spec.sizes.items()}
    counts = {name: len(feature) for name, feature in features.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RecordError(f"all features must have the same number of frames, found {found}")
    return np.concatenate([feature[: spec.max_frames] for feature in features.values()], axis=1)


def _feature_frames(fields: Fields, name: str, size: int) -> npt.NDArray[np.uint8]:
    """Returns all frames of one feature, uint8 [T, size]."""
    steps = fields.sequences.get(name)
    if isinstance(steps, np.ndarray) and steps.shape[1] == size:
        return steps
    if steps is None:
        raise RecordError(f"{name}: no such list of frames; {_describe_found(fields)}")
    for index, values in enumerate(steps):
        if isinstance(steps, np.ndarray):
            raise RecordError(f"{name}: expected {size} bytes a frame, found {steps.shape[1]}")
        if not isinstance(values, list) or len(values) != 1:
            raise RecordError(f"{name}: expected one byte string a frame, found {_describe(values)} in frame {index}")
        if len(values[0]) != size:
            raise RecordError(f"{name}: expected {size} bytes a frame, found {len(values[0])} in frame {index}")
    return np.empty((0, size), np.uint8)


def _mean(fields: Fields, name: str, size: int) -> npt.NDArray[np.floating[Any]]:
    values = fields.context.get(name)
    if values is None:
        return _mean_of_frames(fields, name, size)
    if isinstance(values, list) or values.dtype != np.float32 or len(values) != size:
        raise RecordError(f"{name}: expected {size} float32 values, found {_describe(values)}")
    check_finite(name, values)
    return values


def _mean_of_frames(fields: Fields, name: str, size: int) -> npt.NDArray[np.floating[Any]]:
    frame_name = name.removeprefix(MEAN_PREFIX)
    if frame_name not in fields.sequences:
        raise RecordError(
            f"{name}: no such feature, and no list {frame_name} of frames to average; {_describe_found(fields)}"
        )
    frames = _feature_frames(fields, frame_name, size)
    if len(frames) == 0:
        raise RecordError(f"{name}: no such feature, and 0 frames {frame_name} to average")
    # In float64, because a day of frames is summed.
    mean: npt.NDArray[np.float64] = frames.mean(axis=0, dtype=np.float64)
    return mean * DEQUANTIZATION_SCALE + DEQUANTIZATION_OFFSET


def describe_unlabelled(fields: Fields) -> str:
    """Returns what to say of a record that has no labels and needs some."""
    ratings = f", only ratings of its segments ({SEGMENT_LABELS_KEY})" if SEGMENT_LABELS_KEY in fields.context else ""
    return f"the video has no {LABELS_KEY}{ratings}"


def check_finite(name: str, values: npt.NDArray[Any]) -> None:
    """Checks that the values [N] of a feature are finite numbers; RecordError names the first that is not."""
    # A single one makes all scores of a model NaN.
    is_bad = ~np.isfinite(values)
    if is_bad.any():
        first = int(np.argmax(is_bad))
        raise RecordError(f"{name}: value {first} of {len(values)} is {values[first]}, not a finite number", "value")


def _describe_found(fields: Fields) -> str:
    lists = [
        f"{name} ({steps.shape[1]} bytes a frame)" if isinstance(steps, np.ndarray) else name
        for name, steps in sorted(fields.sequences.items())
    ]
    others = [
        f"{name} ({_describe(values)})"
        for name, values in sorted(fields.context.items())
        if name not in (*ID_KEYS, LABELS_KEY)
    ]
    found = ", ".join([*lists, *others][:_MOST_NAMED]) or "no feature"
    num_more = len(lists) + len(others) - _MOST_NAMED
    more = f" and {num_more} more" if num_more > 0 else ""
    names = (*fields.context, *fields.sequences)
    if any(name.startswith(_MEDIA_SEQUENCE_CLIP) or _MEDIA_SEQUENCE_FEATURE in name for name in names):
        return (
            f"found {found}{more}: a MediaSequence of MediaPipe, which is read once it is converted to the lists "
            f"{' and '.join(FRAME_FEATURES)} of one byte string a frame"
        )
    level = "" if lists or not any(name.startswith(MEAN_PREFIX) for name in names) else ", features of the video level"
    return f"found {found}{more}{level}"


def _describe(values: npt.NDArray[Any] | list[bytes]) -> str:
    kind = "byte strings" if isinstance(values, list) else f"{values.dtype} values"
    sizes = f" of {len(values[0])} bytes" if isinstance(values, list) and len(values) == 1 else ""
    return f"{len(values)} {kind}{sizes}"
