"""The reader of whole shards: the fast way gives what the slow way gives, and every record is accounted for."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.data.errors import UNLABELLED, CorruptRecordError
from yt8m_ray.data.format.example import Values, decode_record, encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.format.tfrecord import frame_record, write_records
from yt8m_ray.data.pipeline.packed_videos import Block, PackedVideos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks, read_rows

FRAMES = FeatureSpec({"rgb": 8, "audio": 3}, num_classes=50, max_frames=6)
MEANS = FeatureSpec({"mean_rgb": 8, "mean_audio": 3}, num_classes=50)
SKIP = ReadOptions(on_corrupt="skip")


def context(name: str, labels: list[int]) -> dict[str, Values]:
    return {"id": [name.encode()], "labels": np.array(labels, np.int64)}


def clip(name: str, num_frames: int, labels: list[int]) -> bytes:
    rng = np.random.default_rng(num_frames)
    lists = {key: rng.integers(0, 256, (num_frames, size), dtype=np.uint8) for key, size in FRAMES.sizes.items()}
    return encode_sequence_example(context(name, labels), lists)


def mean(name: str, labels: list[int]) -> bytes:
    rng = np.random.default_rng(len(name))
    values = {key: rng.standard_normal(size).astype(np.float32) for key, size in MEANS.sizes.items()}
    return encode_example({**context(name, labels), **values})


PAYLOADS = [clip("a", 4, [3, 7]), clip("bb", 1, []), clip("ccc", 9, [49]), clip("d", 6, [9, 0, 9])]


def shard_of(folder: Path, payloads: list[bytes], name: str = "train0042.tfrecord") -> str:
    path = str(folder / name)
    write_records(path, payloads)
    return path


def shard_of_bytes(folder: Path, data: bytes) -> str:
    path = folder / "train0042.tfrecord"
    path.write_bytes(data)
    return str(path)


def videos_of(blocks: list[Block]) -> PackedVideos:
    return PackedVideos.concatenate([block.videos for block in blocks])


def assert_same(found: VideoRow, expected: VideoRow) -> None:
    assert found.video_id == expected.video_id
    assert found.frames.dtype == expected.frames.dtype
    np.testing.assert_array_equal(found.frames, expected.frames)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize(("payloads", "spec"), [(PAYLOADS, FRAMES), ([mean("x", [1, 4]), mean("yy", [])], MEANS)])
def test_a_shard_is_read_as_its_records_are_decoded(tmp_path: Path, payloads: list[bytes], spec: FeatureSpec) -> None:
    rows = list(read_rows(shard_of(tmp_path, payloads), spec))

    assert [record for record, _ in rows] == list(range(len(payloads)))
    for (_, row), payload in zip(rows, payloads, strict=True):
        assert_same(row, to_row(decode_record(payload), spec))


def test_blocks_are_cut_by_their_bytes_and_keep_the_order(tmp_path: Path) -> None:
    path = shard_of(tmp_path, PAYLOADS * 3)

    blocks = list(read_blocks(path, FRAMES, ReadOptions(block_bytes=100), shard=5))

    assert len(blocks) > 4
    assert videos_of(blocks).records.tolist() == list(range(12))
    assert set(videos_of(blocks).shards.tolist()) == {5}
    assert [end.num_records for block in blocks for end in block.ends] == [12]
    assert videos_of(blocks).num_frames.tolist() == [4, 1, 6, 6] * 3


def test_a_block_keeps_its_content_while_later_ones_are_read(tmp_path: Path) -> None:
    path = shard_of(tmp_path, PAYLOADS * 50)

    blocks = list(read_blocks(path, FRAMES, ReadOptions(block_bytes=100)))
    one_by_one = [block.videos.frames.copy() for block in read_blocks(path, FRAMES, ReadOptions(block_bytes=100))]

    np.testing.assert_array_equal(videos_of(blocks).frames, np.concatenate(one_by_one))


def test_records_to_skip_are_not_looked_at(tmp_path: Path) -> None:
    path = shard_of(tmp_path, [*PAYLOADS, clip("bad", 1, [99]), clip("e", 2, [])])

    blocks = list(read_blocks(path, FRAMES, skip=np.array([0, 2, 4])))

    assert videos_of(blocks).records.tolist() == [1, 3, 5]
    assert blocks[-1].ends[0].num_records == 6


def test_labels_of_another_vocabulary_do_not_matter_where_none_are_read(tmp_path: Path) -> None:
    path = shard_of(tmp_path, [clip("v", 1, [99])])

    ((_, row),) = read_rows(path, FRAMES, ReadOptions(labels="ignored"))

    assert row.video_id == "v" and row.labels is None
    with pytest.raises(CorruptRecordError, match="class id 99 is out of range"):
        list(read_rows(path, FRAMES))


def not_finite(name: str, value: float = np.nan) -> bytes:
    means = {"mean_rgb": np.ones(8, np.float32), "mean_audio": np.array([1, value, 2], np.float32)}
    return encode_example({**context(name, [1]), **means})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_stops_with_its_place(tmp_path: Path, value: float) -> None:
    path = shard_of(tmp_path, [mean("x", [1]), not_finite("bad", value)])

    with pytest.raises(CorruptRecordError) as caught:
        list(read_blocks(path, MEANS))

    place = f"{path}: record 1 at byte {16 + len(mean('x', [1]))}"
    assert str(caught.value) == f"{place}: mean_audio: value 1 of 3 is {value}, not a finite number"
    assert caught.value.cause == "value"


def test_a_value_that_is_not_finite_costs_its_record_alone(tmp_path: Path) -> None:
    path = shard_of(tmp_path, [mean("x", [1]), not_finite("bad"), mean("yy", [2])])

    (block,) = read_blocks(path, MEANS, SKIP)

    assert block.videos.video_ids.tolist() == ["x", "yy"]
    assert [(rejection.record, rejection.cause) for rejection in block.rejections] == [(1, "value")]


def unlabelled(name: str, **more: Values) -> bytes:
    means: dict[str, Values] = {key: np.ones(size, np.float32) for key, size in MEANS.sizes.items()}
    return encode_example({"id": [name.encode()], **means, **more})


def test_no_labels_and_an_empty_list_of_them_are_two_things(tmp_path: Path) -> None:
    path = shard_of(tmp_path, [mean("x", [1]), unlabelled("none"), mean("empty", []), mean("yy", [2, 5])])

    (block,) = read_blocks(path, MEANS)

    assert block.videos.is_labelled.tolist() == [True, False, True, True]
    assert block.videos.num_labels.tolist() == [1, 0, 0, 2]
    assert block.videos.labels.tolist() == [1, 2, 5]


def test_where_labels_are_required_a_video_without_them_is_left_out_and_no_error(tmp_path: Path) -> None:
    rated = unlabelled("rated", segment_labels=np.array([3]), segment_scores=np.ones(1, np.float32))
    path = shard_of(tmp_path, [mean("x", [1]), unlabelled("none"), mean("empty", []), rated])

    (block,) = read_blocks(path, MEANS, ReadOptions(labels="required"), shard=4)

    assert block.videos.video_ids.tolist() == ["x", "empty"]
    assert [(each.shard, each.record, each.cause) for each in block.rejections] == [
        (4, 1, UNLABELLED),
        (4, 3, UNLABELLED),
    ]
    assert block.rejections[0].message.startswith(f"{path}: record 1 at byte ")
    assert [each.message.partition(": the ")[2] for each in block.rejections] == [
        "video has no labels",
        "video has no labels, only ratings of its segments (segment_labels)",
    ]
    assert block.ends[0].num_records == 4 and block.ends[0].message is None


def test_rows_are_read_up_to_the_record_that_is_named_in_the_error(tmp_path: Path) -> None:
    path = shard_of(tmp_path, [PAYLOADS[0], PAYLOADS[1], clip("bad", 1, [50]), PAYLOADS[2]])
    rows: list[tuple[int, VideoRow]] = []

    with pytest.raises(CorruptRecordError) as caught:
        rows.extend(read_rows(path, FRAMES))

    assert [record for record, _ in rows] == [0, 1]
    offset = len(frame_record(PAYLOADS[0])) + len(frame_record(PAYLOADS[1]))
    reason = "labels: class id 50 is out of range, valid are 0 to 49"
    assert str(caught.value) == f"{path}: record 2 at byte {offset}: {reason}"
    assert pickle.loads(pickle.dumps(caught.value)).cause == "label"


FRAMED = [frame_record(payload) for payload in PAYLOADS]


def damaged(record: int, byte: int) -> bytes:
    """The shard of PAYLOADS with one bit of one record's frame turned over."""
    frame = bytearray(FRAMED[record])
    frame[byte] ^= 0x10
    return b"".join([*FRAMED[:record], bytes(frame), *FRAMED[record + 1 :]])


def test_skip_says_with_the_last_block_what_was_left_out(tmp_path: Path) -> None:
    path = shard_of_bytes(tmp_path, damaged(1, 60))

    blocks = list(read_blocks(path, FRAMES, SKIP))

    (end,) = blocks[-1].ends
    assert end.num_records == 4
    size = len(PAYLOADS[1])
    assert end.message == (
        f"{path}: 1 of 4 records left out (crc 1); the first: record 1 at byte {len(FRAMED[0])}: "
        f"the checksum of its {size} bytes does not match"
    )


def test_skip_finds_the_next_record_behind_a_gap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gap = rng.integers(0, 256, 3_000_000, dtype=np.uint8).tobytes() + bytes(2_000_000)
    path = shard_of_bytes(tmp_path, FRAMED[0] + gap + FRAMED[1] + FRAMED[2])

    blocks = list(read_blocks(path, FRAMES, SKIP))

    assert videos_of(blocks).records.tolist() == [0, 2, 3]
    assert blocks[-1].ends[0].num_records == 4


def test_a_rejected_record_that_was_counted_before_is_not_counted_again(tmp_path: Path) -> None:
    path = shard_of_bytes(tmp_path, damaged(1, 20))

    blocks = list(read_blocks(path, FRAMES, SKIP, skip=np.array([0, 1])))

    assert videos_of(blocks).records.tolist() == [2, 3]
    assert [block.rejections for block in blocks] == [[]] * len(blocks)
    assert blocks[-1].ends[0].num_records == 4


@pytest.mark.parametrize("content", [b"", b"not a shard at all, but some text"])
def test_skip_counts_a_file_without_records_as_one(tmp_path: Path, content: bytes) -> None:
    blocks = list(read_blocks(shard_of_bytes(tmp_path, content), FRAMES, SKIP))

    assert len(videos_of(blocks)) == 0
    assert blocks[-1].ends[0].num_records == 1
    assert len(blocks[-1].rejections) == 1


def test_skip_does_not_hide_a_shard_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_blocks(str(tmp_path / "none.tfrecord"), FRAMES, SKIP))
    with pytest.raises(IsADirectoryError):
        list(read_blocks(str(tmp_path), FRAMES, SKIP))


@pytest.mark.parametrize("sizes", [{"rgb": 128, "audio": 64}, {"rgb": 64, "audio": 3}, {"rgb": 3, "audio": 64}])
def test_frames_of_whole_cache_lines_are_read_like_others(tmp_path: Path, sizes: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    spec = FeatureSpec(sizes, num_classes=50)
    payloads = [
        encode_sequence_example(
            context(str(count), [count]),
            {name: rng.integers(0, 256, (count, size), dtype=np.uint8) for name, size in sizes.items()},
        )
        for count in (1, 7, 33)
    ]

    rows = [row for _, row in read_rows(shard_of(tmp_path, payloads), spec)]

    for row, payload in zip(rows, payloads, strict=True):
        assert_same(row, to_row(decode_record(payload), spec))
