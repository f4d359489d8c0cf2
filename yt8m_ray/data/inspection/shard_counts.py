"""What a shard holds, counted record by record, each checked as training would check it."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from yt8m_ray.data.errors import CorruptRecordError, RecordError
from yt8m_ray.data.format.example import Fields, Values, decode_record
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, may_be_feature, to_row
from yt8m_ray.data.format.framing import detect_compression
from yt8m_ray.data.format.tfrecord import read_payloads
from yt8m_ray.data.storage.byte_stream import ChecksummedStream
from yt8m_ray.data.storage.filesystem import open_stream
from yt8m_ray.data.video_keys import id_keys
from yt8m_ray.schema import FRAME_FEATURES, LABELS_KEY, MAX_FRAMES, MEAN_PREFIX, VIDEO_FEATURES

# What is unusual about a video and no reason to refuse it; `dataset_summary` has the sentences.
Remark = Literal["unlabelled", "no_class", "repeated_labels", "long_clips", "empty_clips", "averaged_frames"]
# (`context` or `sequences`, key, kind of its values) of a feature.
KeyUse: TypeAlias = tuple[str, str, str]
# More keys are noise, not a data set, and must not fill the memory.
_MOST_KEYS = 256
_OTHER_KEYS = "(other keys)"
_SAMPLE_RECORDS = 64


@dataclass(eq=False)
class Survey:
    """Counts over records; `merge` adds those of other records."""

    num_bytes: int = 0
    # Records present, good and bad.
    num_records: int = 0
    # Records that are videos. All below, but for `max_class_id`, `keys` and `rejected`, is of these.
    num_videos: int = 0
    # 0 at video level.
    num_frames: int = 0
    # Videos by number of frames; empty at video level.
    clips: Counter[int] = field(default_factory=Counter)
    # Labelled videos by number of labels.
    labels: Counter[int] = field(default_factory=Counter)
    num_unlabelled: int = 0
    # int64 [highest class id + 1], videos with each label.
    class_counts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    # Of any record, valid or not; -1 where there is none.
    max_class_id: int = -1
    # How many records have a feature, and the least and the most of its values (in the context) or of its bytes a frame
    # (in the sequences).
    keys: dict[KeyUse, tuple[int, int, int]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    compressions: Counter[str] = field(default_factory=Counter)
    # How many videos a remark concerns, and the place of the first in the first shard.
    remarks: dict[Remark, tuple[int, str]] = field(default_factory=dict)

    def merge(self, other: Survey) -> None:
        """Adds the counts of other shards, in any order."""
        for name, theirs in vars(other).items():
            if isinstance(theirs, int | Counter) and name != "max_class_id":
                setattr(self, name, getattr(self, name) + theirs)
        self.max_class_id = max(self.max_class_id, other.max_class_id)
        shorter, longer = sorted((self.class_counts, other.class_counts), key=len)
        self.class_counts = longer.copy()
        self.class_counts[: len(shorter)] += shorter
        for use, (count, least, most) in other.keys.items():
            self._add_key(use, least, most, count)
        for remark, (count, first) in other.remarks.items():
            before, first_before = self.remarks.get(remark, (0, first))
            # Shards come in any order; the first by name counts.
            self.remarks[remark] = (before + count, min(first, first_before))

    def add_fields(self, fields: Fields) -> None:
        """Counts the features of a record."""
        for name, values in fields.context.items():
            self._add_key(("context", name, _kind(values)), len(values), len(values))
        for name, steps in fields.sequences.items():
            if isinstance(steps, np.ndarray):
                kind, sizes = "bytes", [steps.shape[1]]
            else:
                kind, sizes = "irregular" if steps else "empty", list(map(_frame_size, steps))
            self._add_key(("sequences", name, kind), min(sizes, default=0), max(sizes, default=0))
        labels = fields.context.get(LABELS_KEY)
        if isinstance(labels, np.ndarray) and labels.dtype == np.int64 and len(labels):
            self.max_class_id = max(self.max_class_id, int(labels.max()))

    def add_video(self, row: VideoRow, remarks: Iterable[Remark], place: str, *, is_video_level: bool) -> None:
        """Counts a video, but for `class_counts`."""
        self.num_videos += 1
        if not is_video_level:
            self.num_frames += len(row.frames)
            self.clips[len(row.frames)] += 1
        if row.labels is None:
            self.num_unlabelled += 1
        else:
            self.labels[len(row.labels)] += 1
        for remark in remarks:
            count, first = self.remarks.get(remark, (0, place))
            self.remarks[remark] = (count + 1, first)

    def _add_key(self, use: KeyUse, least: int, most: int, count: int = 1) -> None:
        if use not in self.keys and len(self.keys) >= _MOST_KEYS:
            use = (use[0], _OTHER_KEYS, use[2])
        before, least_before, most_before = self.keys.get(use, (0, least, most))
        self.keys[use] = (before + count, min(least, least_before), max(most, most_before))


@dataclass(eq=False)
class ShardSurvey:
    """What one shard holds."""

    path: str
    counts: Survey = field(default_factory=Survey)
    # Of the whole file, 8 hexadecimal digits.
    crc32c: str = ""
    # Record, byte offset and reason of the first record that was refused.
    first_rejection: str | None = None
    # The path, and why it could not be opened or read; then nothing is counted.
    unreadable: str | None = None
    # The ids as `id_keys`, and which records the videos are, int32.
    keys: np.ndarray = field(default_factory=lambda: id_keys([]))
    records: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))


def survey_shard(path: str, sizes: Mapping[str, int], *, num_classes: int) -> ShardSurvey:
    """Returns what a shard holds, whose records must have the features `sizes` (values a frame)."""
    # Frames that readers drop are counted too.
    spec = FeatureSpec(sizes, num_classes, max_frames=sys.maxsize)
    survey = ShardSurvey(path)
    counts = survey.counts
    videos: list[tuple[str, int]] = []
    class_ids = [np.empty(0, np.int32)]

    def reject(error: CorruptRecordError) -> None:
        counts.num_records = max(counts.num_records, error.record + 1)
        counts.rejected[error.cause] += 1
        survey.first_rejection = survey.first_rejection or str(error)

    try:
        with ChecksummedStream(open_stream(path)) as stream:
            for record, offset, payload in read_payloads(stream, path=path, on_corrupt=reject):
                counts.num_records = record + 1
                try:
                    fields = decode_record(payload)
                    counts.add_fields(fields)
                    row = to_row(fields, spec)
                except RecordError as error:
                    reject(CorruptRecordError(path, record, offset, error.reason, error.cause))
                    continue
                place = f"{path}: record {record} at byte {offset}"
                counts.add_video(row, _remarks(fields, row, spec), place, is_video_level=spec.is_video_level)
                videos.append((row.video_id, record))
                if row.labels is not None:
                    class_ids.append(row.labels)
            # The checksum is of the whole file, also where the reader gave up before its end.
            stream.drain()
    except OSError as error:
        return ShardSurvey(path, unreadable=f"{path}: {error.strerror or error}")
    counts.num_bytes = stream.num_bytes
    counts.compressions[detect_compression(stream.start)] = 1
    counts.class_counts = np.bincount(np.concatenate(class_ids))
    survey.crc32c = f"{stream.crc:08x}"
    survey.keys = id_keys([video_id for video_id, _ in videos])
    survey.records = np.array([record for _, record in videos], np.int32)
    return survey


def detect_features(paths: Iterable[str]) -> dict[str, int] | None:
    """Returns the features of the first record that has some, and their values a frame; None where none has."""
    for path in paths:
        try:
            with open_stream(path) as stream:
                # The survey reports bad records, and shards that cannot be read.
                payloads = read_payloads(stream, path=path, on_corrupt=lambda _: None)
                for _, _, payload in itertools.islice(payloads, _SAMPLE_RECORDS):
                    if sizes := _sizes_of(payload):
                        return sizes
        except OSError:
            continue
    return None


def _sizes_of(payload: memoryview) -> dict[str, int]:
    try:
        fields = decode_record(payload)
    except RecordError:
        return {}
    # A record with lists of frames is at frame level, whatever else it holds.
    if fields.sequences:
        steps_of = fields.sequences.items()
        found = {name: steps.shape[1] for name, steps in steps_of if isinstance(steps, np.ndarray) and steps.size}
    else:
        features = ((name, values) for name, values in fields.context.items() if name.startswith(MEAN_PREFIX))
        found = {name: len(values) for name, values in features if _kind(values) == "float32" and len(values)}
    # The published ones alone, in their order, where there are some: other keys may not be meant as features.
    published = [name for name in (*FRAME_FEATURES, *VIDEO_FEATURES) if name in found]
    return {name: found[name] for name in published or sorted(filter(may_be_feature, found))}


def _remarks(fields: Fields, row: VideoRow, spec: FeatureSpec) -> Iterator[Remark]:
    if row.labels is None:
        yield "unlabelled"
    elif not len(row.labels):
        yield "no_class"
    elif len(row.labels) < len(fields.context[LABELS_KEY]):
        yield "repeated_labels"
    if spec.is_video_level:
        if any(name not in fields.context for name in spec.sizes):
            yield "averaged_frames"
    elif len(row.frames) > MAX_FRAMES:
        yield "long_clips"
    elif not len(row.frames):
        yield "empty_clips"


def _kind(values: Values) -> str:
    return "bytes" if isinstance(values, list) else values.dtype.name


def _frame_size(values: Values) -> int:
    """Returns the bytes, or the number of values, of a frame."""
    return len(values[0]) if isinstance(values, list) and len(values) == 1 else len(values)
