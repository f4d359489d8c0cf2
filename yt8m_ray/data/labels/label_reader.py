"""A shard -> ids and labels alone, at the speed of memory: no frame is copied, but every checksum is compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from yt8m_ray.data.errors import CorruptRecordError, RecordError
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import id_and_labels
from yt8m_ray.data.format.framing import OnCorrupt, Records
from yt8m_ray.data.format.tfrecord import read_records
from yt8m_ray.data.pipeline.fast_decode import UNUSUAL, VIDEO_COLUMNS, pack_records, reading_of
from yt8m_ray.data.storage.filesystem import open_stream

_MOST_LABELS = 1 << 16

# The id of a video and its class ids, ascending; None for a video without a list of labels.
VideoLabels = tuple[str, list[int] | None]


def read_labels(path: str, *, num_classes: int, on_corrupt: OnCorrupt | None = None) -> Iterator[VideoLabels]:
    """Yields the id and the labels of each video of a shard, in order.

    `on_corrupt` is called with each bad record, which is left out; without it, the CorruptRecordError is raised.
    """
    reading = reading_of({}, max_frames=1, num_classes=num_classes, labels="optional", video_level=True)
    no_frames, labels = np.empty((0, 1), np.uint8), np.empty(_MOST_LABELS, np.int32)
    with open_stream(path) as stream:
        for records in read_records(stream, path=path, on_corrupt=on_corrupt):
            view = records.data.data.toreadonly()
            start = 0
            while start < len(records):
                starts, ends = records.starts[start:], records.ends[start:]
                found = np.empty((len(starts), len(VIDEO_COLUMNS)), np.int64)
                # It stops at a record of unusual layout, and where `labels` is full.
                count, _, num_labels, status = pack_records(
                    records.data, starts, ends, reading, no_frames, labels, found
                )
                class_ids = iter(labels[:num_labels].tolist())
                for id_start, id_end, _, num, _ in found[:count].tolist():
                    known = None if num < 0 else list(itertools.islice(class_ids, num))
                    yield str(view[id_start:id_end], "ascii"), known
                start += count
                if status == UNUSUAL:
                    yield from _decode(records, start, path, num_classes, on_corrupt)
                    start += 1


def _decode(
    records: Records, index: int, path: str, num_classes: int, on_corrupt: OnCorrupt | None
) -> Iterator[VideoLabels]:
    payload = records.data.data.toreadonly()[records.starts[index] : records.ends[index]]
    try:
        video_id, class_ids = id_and_labels(decode_record(payload), num_classes)
    except RecordError as error:
        offset = records.offset_of(index)
        corrupt = CorruptRecordError(path, records.first + index, offset, error.reason, error.cause)
        if on_corrupt is None:
            raise corrupt from None
        on_corrupt(corrupt)
    else:
        yield video_id, None if class_ids is None else class_ids.tolist()
