"""A shard -> ids and labels alone, at the speed of memory: no frame is copied.

Ordinary records are read by the compiled loops of `yt8m_ray.data.pipeline.fast_decode`, any other one by one. Every
checksum is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from yt8m_ray.data.errors import CorruptRecordError, RecordError
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import id_and_labels
from yt8m_ray.data.format.framing import OnCorrupt, Records
from yt8m_ray.data.format.tfrecord import read_records
from yt8m_ray.data.pipeline.fast_decode import UNUSUAL, VIDEO_COLUMNS, Reading, pack_records, reading_of
from yt8m_ray.data.storage.filesystem import open_stream

_MOST_LABELS = 1 << 16


@dataclass(frozen=True)
class VideoLabels:
    """The labels of N videos.

    Attributes:
        num_labels: int64 [N].
        labels: int32 [sum of num_labels], class ids, ascending within a video.
        num_unlabelled: How many other videos have no list of labels; one of no class has an empty list.
    """

    video_ids: list[str]
    num_labels: np.ndarray
    labels: np.ndarray
    num_unlabelled: int


def read_labels(path: str, *, num_classes: int, on_corrupt: OnCorrupt | None = None) -> Iterator[VideoLabels]:
    """Yields the labels of a shard's labelled videos in order, a block at a time.

    Args:
        on_corrupt: Called with each bad record, which is left out; None raises the error instead.

    Raises:
        CorruptRecordError: with the record that could not be read.
        OSError: the shard cannot be opened or read.
    """
    reading = reading_of({}, max_frames=1, num_classes=num_classes, labels="optional", video_level=True)
    with open_stream(path) as stream:
        for records in read_records(stream, path=path, on_corrupt=on_corrupt):
            yield _read(records, path, reading, num_classes, on_corrupt)


def _read(records: Records, path: str, reading: Reading, num_classes: int, on_corrupt: OnCorrupt | None) -> VideoLabels:
    video_ids: list[str] = []
    counts: list[np.ndarray] = [np.empty(0, np.int64)]
    parts: list[np.ndarray] = [np.empty(0, np.int32)]
    no_frames, labels = np.empty((0, 1), np.uint8), np.empty(_MOST_LABELS, np.int32)
    next_record = num_unlabelled = 0
    while next_record < len(records):
        starts, ends = records.starts[next_record:], records.ends[next_record:]
        found = np.empty((len(starts), len(VIDEO_COLUMNS)), np.int64)
        count, _, num_labels, status = pack_records(records.data, starts, ends, reading, no_frames, labels, found)
        view = records.data.data
        labelled = found[:count][found[:count, 3] >= 0]
        num_unlabelled += count - len(labelled)
        video_ids += [str(view[start:end], "ascii") for start, end in labelled[:, :2].tolist()]
        counts.append(labelled[:, 3])
        parts.append(labels[:num_labels].copy())
        next_record += count
        if status == UNUSUAL:
            try:
                payload = view.toreadonly()[records.starts[next_record] : records.ends[next_record]]
                video_id, class_ids = id_and_labels(decode_record(payload), num_classes)
                if class_ids is None:
                    num_unlabelled += 1
                else:
                    video_ids.append(video_id)
                    counts.append(np.array([len(class_ids)]))
                    parts.append(class_ids)
            except RecordError as error:
                offset = records.offset_of(next_record)
                corrupt = CorruptRecordError(path, records.first + next_record, offset, error.reason, error.cause)
                if on_corrupt is None:
                    raise corrupt from None
                on_corrupt(corrupt)
            next_record += 1
    return VideoLabels(video_ids, np.concatenate(counts), np.concatenate(parts), num_unlabelled)
