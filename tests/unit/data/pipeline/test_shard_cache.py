from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.pipeline.packed_videos import Block, from_table
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_cache import read_tables

SPEC = FeatureSpec({"mean_rgb": 4}, num_classes=9)
NOTHING = np.empty(0, np.int64)


def write(path: Path, count: int, *, value: float = 1.0, last: bytes | None = None) -> str:
    payloads = [
        encode_example(
            {"id": [b"v%d" % index], "labels": np.array([index % 9]), "mean_rgb": np.full(4, value, np.float32)}
        )
        for index in range(count)
    ]
    write_records(str(path), payloads + ([] if last is None else [last]))
    return str(path)


def read(path: str, folder: Path | None, *, shard: int = 0, skip: np.ndarray = NOTHING, **options: object) -> Block:
    cache = None if folder is None else str(folder)
    how = ReadOptions(block_bytes=64, **options)  # type: ignore[arg-type]
    tables = list(read_tables(path, SPEC, how, folder=cache, shard=shard, skip=skip))
    return from_table(pa.concat_tables(tables), SPEC)


def assert_same(found: Block, expected: Block) -> None:
    for name in ("shards", "records", "video_ids", "num_frames", "frames", "num_labels", "labels", "is_labelled"):
        np.testing.assert_array_equal(getattr(found.videos, name), getattr(expected.videos, name))
    assert (found.rejections, found.ends) == (expected.rejections, expected.ends)


def test_the_second_reading_does_not_touch_the_shard(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 20)
    first = read(path, tmp_path / "cache")
    content = Path(path).read_bytes()
    before = os.stat(path)
    Path(path).write_bytes(b"\0" * len(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert_same(read(path, tmp_path / "cache"), first)


def test_rejections_and_the_end_come_from_the_cache_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 5, last=b"\xff")
    first = read(path, tmp_path / "cache", shard=3, on_corrupt="skip")

    again = read(path, tmp_path / "cache", shard=3, on_corrupt="skip")

    assert_same(again, first)
    assert len(again.rejections) == 1 and again.ends[0].num_records == 6


def test_the_number_of_a_shard_may_change(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 5)
    read(path, tmp_path / "cache", shard=3)

    again = read(path, tmp_path / "cache", shard=8)

    assert set(again.videos.shards.tolist()) == {8}
    assert again.ends[0].shard == 8


@pytest.mark.parametrize("is_stored", [False, True])
def test_records_to_skip_are_left_out(tmp_path: Path, is_stored: bool) -> None:
    path = write(tmp_path / "a.tfrecord", 9, last=b"\xff")
    if is_stored:
        read(path, tmp_path / "cache", on_corrupt="skip")

    block = read(path, tmp_path / "cache", skip=np.array([0, 4, 9]), on_corrupt="skip")

    assert block.videos.records.tolist() == [1, 2, 3, 5, 6, 7, 8]
    assert block.rejections == []
    assert block.ends[0].num_records == 10


def test_a_shard_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 5)
    read(path, tmp_path / "cache")
    write(Path(path), 5, value=2.0)

    assert read(path, tmp_path / "cache").videos.frames[0, 0] == 2.0


def test_other_options_have_entries_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 5)
    read(path, tmp_path / "cache", labels="ignored")

    assert len(read(path, tmp_path / "cache").videos.labels) == 5


def test_a_shard_that_fails_is_not_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 50, last=b"\xff")

    for _ in range(2):
        with pytest.raises(CorruptRecordError, match="record 50"):
            read(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_reading_that_stops_early_is_not_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 50)
    how = ReadOptions(block_bytes=64)

    tables = read_tables(path, SPEC, how, folder=str(tmp_path / "cache"), shard=0, skip=NOTHING)
    next(tables)
    tables.close()  # type: ignore[attr-defined]

    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_costs_the_cache_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", 5)
    (tmp_path / "cache").write_text("a file in the way")

    assert_same(read(path, tmp_path / "cache"), read(path, None))
