"""A shard -> blocks of packed videos, at the speed of memory: the reader of training, evaluation and prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from yt8m_ray.data.buffer_pool import shared_pool
from yt8m_ray.data.errors import UNLABELLED, CorruptRecordError, RecordError
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, describe_unlabelled, to_row
from yt8m_ray.data.format.framing import Records
from yt8m_ray.data.format.tfrecord import read_records
from yt8m_ray.data.pipeline.fast_decode import FULL, UNUSUAL, VIDEO_COLUMNS, pack_records, reading_of
from yt8m_ray.data.pipeline.packed_videos import Block, PackedVideos, Rejection, ShardEnd
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.storage.filesystem import open_stream

_MOST_LABELS = 1 << 16


def read_blocks(
    path: str,
    spec: FeatureSpec,
    options: ReadOptions = ReadOptions(),
    *,
    shard: int = 0,
    skip: np.ndarray | None = None,
) -> Iterator[Block]:
    """Yields the videos of a shard in order, in blocks; the last holds its `ShardEnd`.

    Of the records present each is a video, a rejection, or in `skip`, whose indexes ascend. A block's arrays are its
    own for as long as they are kept.

    Raises:
        CorruptRecordError: with the record that could not be read; all before it have been yielded.
        OSError: the shard cannot be opened or read, whatever `on_corrupt` says.
    """
    packer = _Packer(path, spec, options, shard=shard, skip=np.empty(0, np.int64) if skip is None else skip)
    try:
        with open_stream(path) as stream:
            verify = options.verify_checksums
            for records in read_records(stream, path=path, verify_crc=verify, on_corrupt=packer.reject):
                yield from packer.add(records)
    except CorruptRecordError:  # what was sound before it is not lost
        if len(packer):
            yield packer.take()
        raise
    yield packer.take(is_last=True)


def read_rows(
    path: str, spec: FeatureSpec, options: ReadOptions = ReadOptions(), *, skip: np.ndarray | None = None
) -> Iterator[tuple[int, VideoRow]]:
    """Yields (record index, video) of each video of a shard, one by one; arguments and errors of `read_blocks`."""
    for block in read_blocks(path, spec, options, skip=skip):
        videos = block.videos
        frames = np.split(videos.frames, np.cumsum(videos.num_frames)[:-1])
        labels = np.split(videos.labels, np.cumsum(videos.num_labels)[:-1])
        for index, record in enumerate(videos.records.tolist()):
            known = labels[index] if videos.is_labelled[index] else None
            yield record, VideoRow(videos.video_ids[index], frames[index], known)


class _Packer:
    # Compiled loops copy ordinary records into the block; `decode_record` and `to_row` read the others one by one, some
    # ten times slower, and say what is wrong.

    def __init__(self, path: str, spec: FeatureSpec, options: ReadOptions, *, shard: int, skip: np.ndarray) -> None:
        self._path, self._spec, self._options, self._shard, self._skip = path, spec, options, shard, skip
        self._width = spec.dim * np.dtype(spec.dtype).itemsize
        # A block is full when it has its rows; the last video may be as long as any.
        self._block_rows = max(options.block_bytes // self._width, 1)
        self._pool = shared_pool((self._block_rows + spec.max_frames) * self._width)
        self._reading = reading_of(
            spec.sizes,
            max_frames=spec.max_frames,
            num_classes=spec.num_classes,
            labels=options.labels,
            video_level=spec.is_video_level,
        )
        self._num_records = 0
        self._causes: Counter[str] = Counter()
        self._first_message = ""
        self._start()

    def __len__(self) -> int:
        return len(self._video_ids)

    def add(self, records: Records) -> Iterator[Block]:
        """Packs records, yielding each block that is full."""
        # A maximum, because rejected records count, too.
        self._num_records = max(self._num_records, records.first + len(records))
        indexes = np.arange(records.first, records.first + len(records))
        starts, ends = records.starts, records.ends
        if len(self._skip):
            wanted = ~np.isin(indexes, self._skip)
            indexes, starts, ends = indexes[wanted], starts[wanted], ends[wanted]
        while len(starts):
            num_packed, status = self._pack(records.data, starts, ends, indexes)
            if status == UNUSUAL:
                row = self._decode(records, int(indexes[num_packed]))
                if row is not None:
                    if self._row + len(row.frames) > len(self._frames):
                        yield self.take()  # which makes room
                    self._append(row, int(indexes[num_packed]))
                num_packed += 1
            indexes, starts, ends = indexes[num_packed:], starts[num_packed:], ends[num_packed:]
            if status == FULL or self._row >= self._block_rows:
                yield self.take()

    def reject(self, error: CorruptRecordError) -> None:
        if self._options.on_corrupt == "fail":
            raise error
        self._num_records = max(self._num_records, error.record + 1)
        if error.record in self._skip:  # counted before this run went on
            return
        self._causes[error.cause] += 1
        self._first_message = self._first_message or str(error)
        self._rejections.append(Rejection(self._shard, error.record, error.cause, str(error)))

    def take(self, *, is_last: bool = False) -> Block:
        records, num_frames, num_labels = np.concatenate(self._facts).T.copy()
        videos = PackedVideos(
            shards=np.full(len(self), self._shard, np.int32),
            records=records.astype(np.int32),
            video_ids=np.array(self._video_ids, dtype=object),
            num_frames=num_frames,
            frames=self._frames[: self._row].reshape(-1).view(self._spec.dtype).reshape(-1, self._spec.dim),
            num_labels=np.maximum(num_labels, 0),
            labels=np.concatenate(self._labels),
            is_labelled=num_labels >= 0,
        )
        ends = [ShardEnd(self._shard, self._num_records, self._summary())] if is_last else []
        block = Block(videos, self._rejections, ends)
        self._start()
        return block

    def _start(self) -> None:
        self._frames = self._pool.take().reshape(-1, self._width)
        self._row = 0
        self._video_ids: list[str] = []
        # Of each video its record, number of frames, and number of labels, -1 where there is no list.
        self._facts = [np.empty((0, 3), np.int64)]
        self._labels = [np.empty(0, np.int32)]
        self._rejections: list[Rejection] = []

    def _pack(self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, indexes: np.ndarray) -> tuple[int, int]:
        """Packs ordinary records up to the first that is not; returns how many, and why no more."""
        found = np.empty((len(starts), len(VIDEO_COLUMNS)), np.int64)
        labels = np.empty(_MOST_LABELS, np.int32)
        room = self._frames[self._row :]
        count, num_rows, num_labels, status = pack_records(data, starts, ends, self._reading, room, labels, found)
        self._row += num_rows
        if count:
            view, id_bounds = data.data, found[:count, :2].tolist()
            self._video_ids += [str(view[start:end], "ascii") for start, end in id_bounds]
            self._facts.append(np.column_stack([indexes[:count], found[:count, 2:4]]))
            self._labels.append(labels[:num_labels].copy())  # or a block would keep all the room
        return count, status

    def _decode(self, records: Records, record: int) -> VideoRow | None:
        """Returns a record that is not laid out as usual, or None where it is rejected."""
        index = record - records.first
        payload = records.data.data.toreadonly()[records.starts[index] : records.ends[index]]
        offset = records.offset_of(index)
        try:
            fields = decode_record(payload)
            row = to_row(fields, self._spec, labelled=self._options.labels != "ignored")
        except RecordError as error:
            self.reject(CorruptRecordError(self._path, record, offset, error.reason, error.cause))
            return None
        if row.labels is None and self._options.labels == "required":
            message = f"{self._path}: record {record} at byte {offset}: {describe_unlabelled(fields)}"
            self._rejections.append(Rejection(self._shard, record, UNLABELLED, message))
            return None
        return row

    def _append(self, row: VideoRow, record: int) -> None:
        self._frames[self._row : self._row + len(row.frames)] = row.frames.view(np.uint8)
        self._row += len(row.frames)
        self._video_ids.append(row.video_id)
        self._facts.append(np.array([[record, len(row.frames), -1 if row.labels is None else len(row.labels)]]))
        if row.labels is not None:
            self._labels.append(row.labels)

    def _summary(self) -> str | None:
        if not self._causes:
            return None
        counts = ", ".join(f"{cause} {count}" for cause, count in sorted(self._causes.items()))
        return (
            f"{self._path}: {self._causes.total()} of {self._num_records} records left out ({counts}); "
            f"the first: {self._first_message.removeprefix(self._path + ': ')}"
        )
