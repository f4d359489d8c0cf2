"""Packed videos: frames end to end and unpadded, as they travel from a reader to the device; and as an Arrow block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from yt8m_ray.data.format.features import FeatureSpec, VideoRow

_END = "end"

Allocate: TypeAlias = Callable[[int], np.ndarray]  # gives a uint8 array of so many bytes

# Frames are one large binary value a video: their offsets have 64 bits, and a block may be larger than 2 GiB.
BLOCK_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("record", pa.int32()),
        ("video_id", pa.string()),
        ("num_frames", pa.int32()),
        ("frames", pa.large_binary()),
        ("labels", pa.list_(pa.int32())),  # null where a video's classes are not known
        # null for a video; else the row is a remark: a cause of rejection, or the end of a shard
        ("remark", pa.string()),
        ("message", pa.string()),
    ]
)


@dataclass(frozen=True)
class PackedVideos:
    """N videos with their frames end to end."""

    shards: np.ndarray  # int32 [N], index of the shard in the list that is read
    records: np.ndarray  # int32 [N], index of the record in its shard
    video_ids: np.ndarray  # [N], of str
    num_frames: np.ndarray  # int64 [N]
    frames: np.ndarray  # uint8 or float32 [sum of num_frames, D]
    num_labels: np.ndarray  # int64 [N]
    labels: np.ndarray  # int32 [sum of num_labels], class ids
    is_labelled: np.ndarray  # bool [N], whether a video's classes are known; one without labels may be of no class

    def __len__(self) -> int:
        return len(self.video_ids)

    @classmethod
    def from_rows(
        cls, rows: Sequence[VideoRow], spec: FeatureSpec, *, shard: int = 0, first_record: int = 0
    ) -> PackedVideos:
        """Returns rows end to end, numbered from `first_record` on."""
        no_labels = np.empty(0, np.int32)
        labels = [no_labels if row.labels is None else row.labels for row in rows]
        return cls(
            shards=np.full(len(rows), shard, np.int32),
            records=np.arange(first_record, first_record + len(rows), dtype=np.int32),
            video_ids=np.array([row.video_id for row in rows], dtype=object),
            num_frames=np.array([len(row.frames) for row in rows], dtype=np.int64),
            frames=np.concatenate([np.empty((0, spec.dim), spec.dtype), *(row.frames for row in rows)]),
            num_labels=np.array(list(map(len, labels)), dtype=np.int64),
            labels=np.concatenate([no_labels, *labels]),
            is_labelled=np.array([row.labels is not None for row in rows], dtype=bool),
        )

    def select(self, rows: np.ndarray) -> PackedVideos:
        return PackedVideos.gather([(self, rows)])

    @staticmethod
    def concatenate(parts: Sequence[PackedVideos]) -> PackedVideos:
        return PackedVideos.gather([(part, np.arange(len(part))) for part in parts])

    @staticmethod
    def gather(parts: Sequence[tuple[PackedVideos, np.ndarray]], allocate: Allocate | None = None) -> PackedVideos:
        """Returns the given rows of each pack, end to end; each frame is copied once."""
        joined = {
            name: np.concatenate([getattr(videos, name)[rows] for videos, rows in parts])
            for name in ("shards", "records", "video_ids", "num_frames", "num_labels", "is_labelled")
        }
        first = parts[0][0].frames
        num_bytes = int(joined["num_frames"].sum()) * first.shape[1] * first.itemsize
        memory = np.empty(num_bytes, np.uint8) if allocate is None else allocate(num_bytes)
        frames = memory.view(first.dtype).reshape(-1, first.shape[1])
        labels = np.empty(joined["num_labels"].sum(), np.int32)
        _copy([(videos.frames, videos.num_frames, rows) for videos, rows in parts], frames)
        _copy([(videos.labels, videos.num_labels, rows) for videos, rows in parts], labels)
        return PackedVideos(frames=frames, labels=labels, **joined)


@dataclass(frozen=True)
class Rejection:
    """A record that was left out."""

    shard: int
    record: int
    cause: str  # a `Cause`, or UNLABELLED
    message: str  # shard, record, byte offset, what was expected and what was found


@dataclass(frozen=True)
class ShardEnd:
    """The end of a shard."""

    shard: int
    num_records: int  # good and bad
    message: str | None = None  # what was rejected, for the log


@dataclass(frozen=True)
class Block:
    """Videos, and what the reader says besides."""

    # So that every record is accounted for where the videos arrive.

    videos: PackedVideos
    rejections: list[Rejection] = field(default_factory=list)
    ends: list[ShardEnd] = field(default_factory=list)


def to_table(block: Block) -> pa.Table:
    """Returns the block as Arrow, frames as one binary value a video; they and the labels are not copied."""
    videos = block.videos
    rows: list[tuple[int, int, str, str | None]]
    rows = [(item.shard, item.record, item.cause, item.message) for item in block.rejections]
    rows += [(end.shard, end.num_records, _END, end.message) for end in block.ends]
    shards, records, remarks, messages = zip(*rows, strict=True) if rows else [()] * 4
    num_remarks = len(rows)
    # Remarks stand in one table with the videos, as empty ones: a chunk of their own would make readers copy frames.
    frame_bytes = videos.num_frames * (videos.frames.shape[1] * videos.frames.itemsize)
    ends = _ends(frame_bytes, num_remarks, np.int64)
    frames = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(videos.frames)]
    )
    label_ends = _ends(videos.num_labels, num_remarks, np.int32)
    is_unknown = np.concatenate([~videos.is_labelled, np.zeros(num_remarks, bool)])
    return pa.table(
        [
            np.concatenate([videos.shards, np.array(shards, np.int32)]),
            np.concatenate([videos.records, np.array(records, np.int32)]),
            pa.array([*videos.video_ids, *[""] * num_remarks], pa.string()),
            np.concatenate([videos.num_frames, np.zeros(num_remarks, np.int64)]).astype(np.int32),
            frames,
            pa.ListArray.from_arrays(
                pa.array(label_ends), pa.array(videos.labels, pa.int32()), mask=pa.array(is_unknown)
            ),
            pa.array([*[None] * len(videos), *remarks], pa.string()),
            pa.array([*[None] * len(videos), *messages], pa.string()),
        ],
        schema=BLOCK_SCHEMA,
    )


def from_table(table: pa.Table, spec: FeatureSpec) -> Block:
    """Returns what `to_table` was given, or several of them joined, without copying frames."""
    table = table.combine_chunks()
    rejections, ends, is_video = _remarks(table)
    frames, labels = (_chunk(table, name) for name in ("frames", "labels"))
    frame_ends = np.frombuffer(frames.buffers()[1], np.int64, len(frames) + 1, offset=8 * frames.offset)
    values = np.frombuffer(frames.buffers()[2] or b"", np.uint8)[frame_ends[0] : frame_ends[-1]]
    # A remark has no frames and no labels, so that leaving out its row leaves out nothing else.
    videos = PackedVideos(
        shards=table["shard"].to_numpy()[is_video],
        records=table["record"].to_numpy()[is_video],
        video_ids=table["video_id"].to_numpy()[is_video],
        num_frames=table["num_frames"].to_numpy()[is_video].astype(np.int64),
        frames=values.view(spec.dtype).reshape(-1, spec.dim),
        num_labels=np.diff(labels.offsets.to_numpy())[is_video].astype(np.int64),
        labels=labels.flatten().to_numpy(),
        is_labelled=labels.is_valid().to_numpy(zero_copy_only=False)[is_video],
    )
    return Block(videos, rejections, ends)


def _remarks(table: pa.Table) -> tuple[list[Rejection], list[ShardEnd], Any]:
    remarks = _chunk(table, "remark")
    if remarks.null_count == len(remarks):
        return [], [], slice(None)
    is_video = remarks.is_null().to_numpy(zero_copy_only=False)
    rows = table.select(["shard", "record", "remark", "message"]).take(np.flatnonzero(~is_video)).to_pylist()
    rejections = [Rejection(*row.values()) for row in rows if row["remark"] != _END]
    ends = [ShardEnd(row["shard"], row["record"], row["message"]) for row in rows if row["remark"] == _END]
    return rejections, ends, is_video


def _chunk(table: pa.Table, name: str) -> Any:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _ends(sizes: np.ndarray, num_more: int, dtype: type[np.integer[Any]]) -> np.ndarray:
    """Returns where each value begins and the last ends; `num_more` empty values follow."""
    ends: np.ndarray = np.zeros(len(sizes) + 1 + num_more, dtype)
    np.cumsum(sizes, out=ends[1 : len(sizes) + 1])
    ends[len(sizes) + 1 :] = ends[len(sizes)]
    return ends


def _copy(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], out: np.ndarray) -> None:
    """Copies the frames or labels of videos to `out`: of each part the values, their number by video, and the rows."""
    first = 0
    for values, counts, rows in parts:
        if len(values) == len(counts) and (counts == 1).all():  # the video level
            np.take(values, rows, axis=0, out=out[first : first + len(rows)])
            first += len(rows)
            continue
        starts = np.cumsum(counts) - counts
        for start, count in zip(starts[rows].tolist(), counts[rows].tolist(), strict=True):
            out[first : first + count] = values[start : start + count]
            first += count
