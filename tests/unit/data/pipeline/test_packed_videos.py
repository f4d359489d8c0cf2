from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.pipeline.packed_videos import Block, PackedVideos, Rejection, ShardEnd, from_table, to_table

FRAMES = FeatureSpec({"rgb": 3, "audio": 2}, num_classes=6)
MEANS = FeatureSpec({"mean_rgb": 3, "mean_audio": 2}, num_classes=6)


def clip(name: str, num_frames: int, labels: list[int]) -> VideoRow:
    frames = np.random.default_rng(num_frames).integers(0, 256, (num_frames, 5), dtype=np.uint8)
    return VideoRow(name, frames, np.array(labels, np.int32))


CLIPS = [clip("a", 4, [0, 5]), clip("b", 1, []), clip("ü", 0, [2]), clip("d", 2, [1, 2, 3])]
UNKNOWN = [VideoRow(row.video_id, row.frames, None) for row in CLIPS]
REJECTIONS = [Rejection(0, 7, "crc", "s: record 7"), Rejection(0, 2, "label", "s: record 2")]


def table_of(rows: list[VideoRow], *, shard: int = 0, rejections: int = 0, is_last: bool = False) -> pa.Table:
    ends = [ShardEnd(shard, 9, "s: 2 of 9 records left out")] if is_last else []
    return to_table(Block(PackedVideos.from_rows(rows, FRAMES, shard=shard), REJECTIONS[:rejections], ends))


def assert_holds(videos: PackedVideos, rows: list[VideoRow]) -> None:
    assert videos.video_ids.tolist() == [row.video_id for row in rows]
    assert videos.num_frames.tolist() == [len(row.frames) for row in rows]
    assert videos.num_labels.tolist() == [len(row.labels) for row in rows]
    np.testing.assert_array_equal(videos.frames, np.concatenate([row.frames for row in rows]))
    np.testing.assert_array_equal(videos.labels, np.concatenate([row.labels for row in rows]))


def test_a_table_gives_back_the_videos() -> None:
    block = from_table(table_of(CLIPS, shard=2), FRAMES)

    assert_holds(block.videos, CLIPS)
    assert block.videos.shards.tolist() == [2, 2, 2, 2]
    assert block.videos.records.tolist() == [0, 1, 2, 3]
    assert (block.rejections, block.ends) == ([], [])


def test_a_table_gives_back_what_the_reader_says_besides() -> None:
    block = from_table(table_of(CLIPS, rejections=2, is_last=True), FRAMES)

    assert_holds(block.videos, CLIPS)
    assert block.rejections == REJECTIONS
    assert block.ends == [ShardEnd(0, 9, "s: 2 of 9 records left out")]


def test_tables_that_were_joined_are_read_as_one() -> None:
    parts = [table_of(CLIPS[:2], rejections=1), table_of([], is_last=True), table_of(CLIPS[2:], shard=1)]

    block = from_table(pa.concat_tables(parts), FRAMES)

    assert_holds(block.videos, CLIPS)
    assert block.videos.shards.tolist() == [0, 0, 1, 1]
    assert (block.rejections, len(block.ends)) == (REJECTIONS[:1], 1)


@pytest.mark.parametrize("start", range(4))
def test_a_slice_of_a_table_is_read_at_its_offset(start: int) -> None:
    block = from_table(table_of(CLIPS, rejections=2, is_last=True).slice(start, 3), FRAMES)

    assert_holds(block.videos, CLIPS[start : start + 3])
    assert len(block.rejections) == max(0, start - 1)


def test_a_table_tells_no_labels_from_an_empty_list_of_them() -> None:
    rows = [CLIPS[0], UNKNOWN[1], CLIPS[1], UNKNOWN[3], CLIPS[3]]
    table = pa.concat_tables([table_of(rows[:3], rejections=1), table_of(rows[3:], is_last=True)])

    videos = from_table(table.slice(1), FRAMES).videos

    assert videos.is_labelled.tolist() == [False, True, False, True]
    assert videos.num_labels.tolist() == [0, 0, 0, 3]
    assert videos.labels.tolist() == [1, 2, 3]
    assert videos.select(np.array([3, 0])).is_labelled.tolist() == [True, False]


def test_an_empty_table_holds_no_video() -> None:
    block = from_table(table_of([]), FRAMES)

    assert len(block.videos) == 0
    assert block.videos.frames.shape == (0, 5)


def test_floats_of_the_video_level_come_back() -> None:
    means = np.arange(10, dtype=np.float32).reshape(2, 1, 5)
    rows = [VideoRow("x", means[0], np.array([1], np.int32)), VideoRow("y", means[1], np.array([], np.int32))]

    block = from_table(to_table(Block(PackedVideos.from_rows(rows, MEANS))), MEANS)

    np.testing.assert_array_equal(block.videos.frames, means[:, 0])


def test_the_frames_of_a_table_are_not_copied() -> None:
    videos = PackedVideos.from_rows(CLIPS, FRAMES)

    block = from_table(to_table(Block(videos)), FRAMES)

    assert np.shares_memory(block.videos.frames, videos.frames)
