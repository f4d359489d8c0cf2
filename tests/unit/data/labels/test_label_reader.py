"""Labels without frames: those that the reader of whole videos finds, and its account of bad records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.shards import ROWS, SHARD, STARTS
from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.framing import OnCorrupt
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.labels.label_reader import read_labels


def labels_of(path: Path, on_corrupt: OnCorrupt | None = None, *, num_classes: int = 50) -> dict[str, list[int] | None]:
    return dict(read_labels(str(path), num_classes=num_classes, on_corrupt=on_corrupt))


EXPECTED = {row.video_id: row.labels.tolist() for row in ROWS}


def test_the_labels_are_those_of_the_videos(tmp_path: Path) -> None:
    (tmp_path / "s.tfrecord").write_bytes(SHARD)
    assert list(labels_of(tmp_path / "s.tfrecord").items()) == list(EXPECTED.items())


def test_records_without_any_feature_have_labels(tmp_path: Path) -> None:
    payloads = [encode_example({"id": [b"v%d" % n], "labels": np.array([n, 7])}) for n in range(5000)]
    write_records(str(tmp_path / "s.tfrecord"), payloads)
    found = labels_of(tmp_path / "s.tfrecord", num_classes=5000)
    assert found == {f"v{n}": sorted({n, 7}) for n in range(5000)}


def test_many_labels_do_not_end_the_block(tmp_path: Path) -> None:
    payloads = [encode_example({"id": [b"v%d" % n], "labels": np.arange(40_000)}) for n in range(4)]
    write_records(str(tmp_path / "s.tfrecord"), payloads)
    found = labels_of(tmp_path / "s.tfrecord", num_classes=40_000)
    assert list(found) == ["v0", "v1", "v2", "v3"]
    assert all(labels == list(range(40_000)) for labels in found.values())


def test_a_bad_record_stops_reading_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "s.tfrecord"
    flipped = bytearray(SHARD)
    flipped[STARTS[2] + 40] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CorruptRecordError, match=rf"record 2 at byte {STARTS[2]}: the checksum"):
        labels_of(path)


def test_bad_records_are_told_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.tfrecord"
    flipped = bytearray(SHARD)
    flipped[STARTS[1] + 40] ^= 1
    path.write_bytes(flipped)
    errors: list[CorruptRecordError] = []
    found = labels_of(path, errors.append, num_classes=40)
    assert [(error.record, error.cause) for error in errors] == [(1, "crc"), (2, "label")]
    assert list(found) == [name for index, name in enumerate(EXPECTED) if index not in (1, 2)]


def test_videos_without_a_list_of_labels_have_none(tmp_path: Path) -> None:
    unlabelled = encode_example({"id": [b"none"], "segment_labels": np.array([3])})
    odd = encode_example({"id": ["ä".encode()]})  # read one by one, as ids that are no ASCII are
    empty = encode_example({"id": [b"empty"], "labels": np.array([], np.int64)})
    write_records(str(tmp_path / "s.tfrecord"), [unlabelled, empty, odd, unlabelled])

    found = list(read_labels(str(tmp_path / "s.tfrecord"), num_classes=50))

    assert found == [("none", None), ("empty", []), ("ä", None), ("none", None)]
