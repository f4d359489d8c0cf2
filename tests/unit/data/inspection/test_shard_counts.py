"""One shard, and the sum of several: what is counted, what is refused, what is remarked."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import crc32c
import numpy as np
import pytest

from yt8m_ray.data.format.example import Values, encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.tfrecord import frame_record, write_records
from yt8m_ray.data.inspection.shard_counts import ShardSurvey, Survey, detect_features, survey_shard
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks

FRAME = {"rgb": 8, "audio": 4}
VIDEO = {"mean_rgb": 8}
NUM_CLASSES = 20


def clip(video_id: str = "v", *, num_frames: int = 3, labels: tuple[int, ...] | None = (1,), key: str = "id") -> bytes:
    frames = {name: np.ones((num_frames, size), np.uint8) for name, size in FRAME.items()}
    known = {} if labels is None else {"labels": np.array(labels, np.int64)}
    return encode_sequence_example({key: [video_id.encode()], **known}, frames)


def mean(video_id: str = "v", *, value: float = 0.5, size: int = 8, **more: Values) -> bytes:
    return encode_example({"id": [video_id.encode()], "mean_rgb": np.full(size, value, np.float32), **more})


def survey(tmp_path: Path, *payloads: bytes, sizes: dict[str, int] = FRAME) -> ShardSurvey:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(map(frame_record, payloads)))
    return survey_shard(str(path), sizes, num_classes=NUM_CLASSES)


def crc32c_by_the_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_videos_frames_and_labels_are_counted(tmp_path: Path) -> None:
    counts = survey(tmp_path, clip("a", num_frames=2, labels=(3, 1)), clip("b", num_frames=5, labels=(3,))).counts

    assert (counts.num_records, counts.num_videos, counts.num_frames) == (2, 2, 7)
    assert counts.clips == {2: 1, 5: 1}
    assert counts.labels == {2: 1, 1: 1}
    assert counts.class_counts.tolist() == [0, 1, 0, 2]


def test_frames_that_readers_drop_are_counted_and_remarked(tmp_path: Path) -> None:
    counts = survey(tmp_path, clip(num_frames=300), clip(num_frames=301)).counts

    assert counts.clips == {300: 1, 301: 1}
    assert counts.remarks == {
        "long_clips": (1, f"{tmp_path}/a.tfrecord: record 1 at byte {16 + len(clip(num_frames=300))}")
    }


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_checksum_and_the_size_are_those_of_the_file(tmp_path: Path, pack: type[bytes]) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(pack(frame_record(mean())))

    found = survey_shard(str(path), VIDEO, num_classes=NUM_CLASSES)

    assert found.counts.num_bytes == path.stat().st_size
    assert found.crc32c == f"{crc32c_by_the_bit(path.read_bytes()):08x}"
    assert found.counts.num_videos == 1
    assert found.counts.compressions == {"none" if pack is bytes else "gzip": 1}


def test_the_checksum_is_that_of_the_whole_file_even_where_its_stream_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    packed = bytearray(gzip.compress(bytes(10)) + np.random.default_rng(0).bytes(5 << 20))
    packed[10] = 0x07  # a block of the reserved type: nothing behind it is read
    path.write_bytes(packed)

    found = survey_shard(str(path), VIDEO, num_classes=NUM_CLASSES)

    assert found.counts.rejected == {"crc": 1}
    assert found.counts.num_bytes == len(packed)
    assert found.crc32c == f"{crc32c.crc32c(packed):08x}"


def test_each_key_is_counted_with_its_kind_and_sizes(tmp_path: Path) -> None:
    records = (mean(labels=np.array([1, 2])), mean(labels=np.array([3])), mean(note=[b"x"]))

    assert survey(tmp_path, *records, sizes=VIDEO).counts.keys == {
        ("context", "id", "bytes"): (3, 1, 1),
        ("context", "mean_rgb", "float32"): (3, 8, 8),
        ("context", "labels", "int64"): (2, 1, 2),
        ("context", "note", "bytes"): (1, 1, 1),
    }


def test_frame_lists_are_counted_with_the_bytes_of_a_frame(tmp_path: Path) -> None:
    irregular = encode_sequence_example({}, {"rgb": [[b"123"], [b"12345"]], "none": []})

    keys = survey(tmp_path, clip(), irregular).counts.keys

    assert keys["sequences", "rgb", "bytes"] == (1, 8, 8)
    assert keys["sequences", "rgb", "irregular"] == (1, 3, 5)
    assert keys["sequences", "none", "empty"] == (1, 0, 0)


def test_random_keys_do_not_fill_the_memory(tmp_path: Path) -> None:
    records = [mean(**{f"noise{number}_{index}": [b""] for index in range(50)}) for number in range(20)]

    keys = survey(tmp_path, *records, sizes=VIDEO).counts.keys

    assert len(keys) <= 300
    assert sum(count for count, _, _ in keys.values()) == 20 * 52


@pytest.mark.parametrize(
    ("bad", "cause", "reason"),
    [
        (clip(labels=(20,)), "label", "labels: class id 20 is out of range, valid are 0 to 19"),
        (clip(""), "parse", "id: expected one byte string that is not empty, found 1 byte strings of 0 bytes"),
        (
            clip(key="name"),
            "parse",
            "the video has no id; expected one of the keys id, video_id; "
            "found audio (4 bytes a frame), rgb (8 bytes a frame), name (1 byte strings of 1 bytes)",
        ),
        (
            mean(),
            "parse",
            "rgb: no such list of frames; found mean_rgb (8 float32 values), features of the video level",
        ),
        (b"\x07", "parse", "byte 0 of the record holds field number 0, valid are 1 to 536870911"),
    ],
)
def test_what_training_would_refuse_is_refused(tmp_path: Path, bad: bytes, cause: str, reason: str) -> None:
    found = survey(tmp_path, clip(), bad, clip(), bad)

    assert (found.counts.num_records, found.counts.num_videos) == (4, 2)
    assert found.counts.rejected == {cause: 2}
    assert found.first_rejection == f"{tmp_path}/a.tfrecord: record 1 at byte {16 + len(clip())}: {reason}"


def test_a_class_id_out_of_range_is_told(tmp_path: Path) -> None:
    assert survey(tmp_path, clip(labels=(3, 4000)), clip(labels=(5,))).counts.max_class_id == 4000


def test_a_flipped_bit_costs_its_record_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    data = bytearray(b"".join(frame_record(clip(name)) for name in "abc"))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    found = survey_shard(str(path), FRAME, num_classes=NUM_CLASSES)

    assert found.counts.rejected == {"crc": 1}
    assert found.records.tolist() == [0, 2]


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_records_are_numbered_as_the_reader_of_training_does(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(frame_record(clip(name)) for name in "abc")[:keep])

    found = survey_shard(str(path), FRAME, num_classes=NUM_CLASSES)

    blocks = read_blocks(str(path), FeatureSpec(FRAME, NUM_CLASSES), ReadOptions(on_corrupt="skip"))
    ((end,),) = [block.ends for block in blocks if block.ends]
    assert found.counts.num_records == end.num_records
    assert found.counts.rejected == {"length": 1}


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.tfrecord", "No such file or directory"), ("folder", "Is a directory")]
)
def test_a_shard_that_cannot_be_opened_says_why(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()

    found = survey_shard(str(tmp_path / name), FRAME, num_classes=NUM_CLASSES)

    assert found.unreadable == f"{tmp_path / name}: {reason}"
    assert (found.counts.num_bytes, found.counts.num_records, found.counts.compressions) == (0, 0, {})


@pytest.mark.parametrize(
    ("payload", "sizes", "remark"),
    [
        (clip(labels=None), FRAME, "unlabelled"),
        (clip(labels=()), FRAME, "no_class"),
        (clip(labels=(2, 1, 2)), FRAME, "repeated_labels"),
        (clip(num_frames=0), FRAME, "empty_clips"),
        (clip(), {"mean_rgb": 8}, "averaged_frames"),
    ],
)
def test_what_training_takes_is_remarked(tmp_path: Path, payload: bytes, sizes: dict[str, int], remark: str) -> None:
    found = survey(tmp_path, payload, payload, sizes=sizes)

    assert found.counts.remarks == {remark: (2, f"{tmp_path}/a.tfrecord: record 0 at byte 0")}
    assert found.counts.num_videos == 2


def test_class_ids_need_not_be_in_order(tmp_path: Path) -> None:
    assert survey(tmp_path, clip(labels=(9, 1))).counts.remarks == {}


def test_the_sum_does_not_depend_on_the_order(tmp_path: Path) -> None:
    payloads = {
        "a": [clip("a", labels=(1, 2)), clip("b", num_frames=7)],
        "b": [clip("c", labels=(19,)), clip("d", labels=(30,)), clip("e", labels=()), clip("h", labels=None)],
        "c": [clip("f", labels=(3, 3)), clip("g", labels=())],
    }
    parts = []
    for name, records in payloads.items():
        write_records(str(tmp_path / name), records)
        parts.append(survey_shard(str(tmp_path / name), FRAME, num_classes=NUM_CLASSES).counts)
    write_records(str(tmp_path / "all"), itertools.chain(*payloads.values()))
    whole = survey_shard(str(tmp_path / "all"), FRAME, num_classes=NUM_CLASSES).counts

    sums = [Survey(), Survey()]
    for total, order in zip(sums, (parts, parts[::-1]), strict=True):
        for part in order:
            total.merge(part)

    assert sums[0].remarks == sums[1].remarks
    for total in sums:
        assert total.class_counts.tolist() == whole.class_counts.tolist()
        for name in (
            "num_bytes",
            "num_records",
            "num_videos",
            "num_frames",
            "clips",
            "labels",
            "num_unlabelled",
            "max_class_id",
            "keys",
        ):
            assert getattr(total, name) == getattr(whole, name), name
        assert (total.rejected, total.compressions) == ({"label": 1}, {"none": 3})


@pytest.mark.parametrize(
    ("payloads", "found"),
    [
        ([clip()], FRAME),
        ([mean()], VIDEO),
        ([b"\x07", clip(num_frames=0), clip()], FRAME),
        (
            [encode_sequence_example({"mean_rgb": np.ones(8, np.float32)}, {"flow": np.ones((2, 3), np.uint8)})],
            {"flow": 3},
        ),
        (
            [encode_sequence_example({}, {"num_frames": np.ones((2, 1), np.uint8), "a": np.ones((2, 3), np.uint8)})],
            {"a": 3},
        ),
        ([encode_example({"mean_other": np.ones(5, np.float32), "other": np.ones(4, np.float32)})], {"mean_other": 5}),
        ([encode_example({"id": [b"v"]}), b""], None),
    ],
)
def test_features_are_those_of_the_first_record_that_has_some(
    tmp_path: Path, payloads: list[bytes], found: dict[str, int] | None
) -> None:
    path = tmp_path / "a.tfrecord"
    write_records(str(path), payloads)

    sizes = detect_features([str(tmp_path / "gone"), str(path)])

    assert sizes == found
    assert sizes is None or list(sizes) == list(found or {})


def test_a_published_shard_is_sound_and_as_long_as_its_framing_says(yt8m_data: Path) -> None:
    path = yt8m_data / "yt8m" / "v2_video" / "validate" / "validate0064.tfrecord"
    data, offset, num_records = path.read_bytes(), 0, 0
    while offset < len(data):
        offset += 16 + int.from_bytes(data[offset : offset + 8], "little")
        num_records += 1

    found = survey_shard(str(path), {"mean_rgb": 1024, "mean_audio": 128}, num_classes=3862)

    assert found.counts.num_videos == num_records
    assert (found.counts.rejected, found.counts.remarks) == ({}, {})
    assert {name: count for (_, name, _), (count, _, _) in found.counts.keys.items()} == dict.fromkeys(
        ("id", "labels", "mean_rgb", "mean_audio"), num_records
    )
