"""The first records of a split: what is refused before anything starts, and what is left to the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.tfrecord import frame_record, write_records
from yt8m_ray.data.pipeline.preflight import MOST_RECORDS, MOST_SHARDS, check_first_videos
from yt8m_ray.data.pipeline.read_options import ReadOptions

SPEC = FeatureSpec({"mean_rgb": 4}, num_classes=9)
REQUIRED, OPTIONAL = ReadOptions(labels="required"), ReadOptions(labels="optional")
SKIP = ReadOptions(labels="required", on_corrupt="skip")
BAD = encode_example({"id": [b"v"], "mean_rgb": np.full(4, np.nan, np.float32)})


def video(*, labels: list[int] | None = None) -> bytes:
    known: dict[str, Any] = {} if labels is None else {"labels": np.array(labels, np.int64)}
    return encode_example({"id": [b"v"], "mean_rgb": np.ones(4, np.float32), **known})


def shards_of(folder: Path, *shards: list[bytes]) -> list[str]:
    paths = [str(folder / f"{number:02d}.tfrecord") for number in range(len(shards))]
    for path, payloads in zip(paths, shards, strict=True):
        write_records(path, payloads)
    return paths


def check(paths: list[str], options: ReadOptions = REQUIRED, spec: FeatureSpec = SPEC) -> None:
    check_first_videos(paths, spec, options, key="data.train")


def test_one_sound_record_is_enough(tmp_path: Path) -> None:
    check(shards_of(tmp_path, [video(labels=[1]), BAD], [BAD]))


def test_a_video_of_no_class_has_labels(tmp_path: Path) -> None:
    check(shards_of(tmp_path, [video(labels=[])]))


def test_frames_are_not_found_in_shards_of_the_video_level(tmp_path: Path) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        check(shards_of(tmp_path, [video(labels=[1])]), spec=FeatureSpec({"rgb": 4}, num_classes=9))

    assert str(caught.value) == (
        f"{tmp_path}/00.tfrecord: record 0 at byte 0: rgb: no such list of frames; "
        "found mean_rgb (4 float32 values), features of the video level"
    )


def test_features_of_other_names_fit_a_spec_that_names_them(tmp_path: Path) -> None:
    sound = encode_sequence_example(
        {"video_id": [b"x"], "labels": np.array([526])}, {"audio_embedding": np.zeros((10, 128), np.uint8)}
    )

    check(shards_of(tmp_path, [sound]), spec=FeatureSpec({"audio_embedding": 128}, num_classes=527))


def test_a_first_record_that_is_bad_is_refused_where_bad_records_are(tmp_path: Path) -> None:
    with pytest.raises(CorruptRecordError, match=r"record 0 at byte 0: mean_rgb: value 0 of 4 is nan, not a finite"):
        check(shards_of(tmp_path, [BAD, video(labels=[1])]))


def test_a_first_record_that_is_bad_is_passed_over_where_they_are_skipped(tmp_path: Path) -> None:
    check(shards_of(tmp_path, [BAD, video(labels=[1])]), SKIP)


def test_a_shard_that_is_bad_is_passed_over_where_they_are_skipped(tmp_path: Path) -> None:
    paths = shards_of(tmp_path, [BAD], [video(labels=[1])])
    Path(paths[0]).write_bytes(frame_record(video(labels=[1]))[:-9])

    check(paths, SKIP)


def test_the_first_error_is_told_where_no_record_is_sound(tmp_path: Path) -> None:
    with pytest.raises(CorruptRecordError, match=r"00\.tfrecord: record 0 at byte 0: mean_rgb: value 0"):
        check(shards_of(tmp_path, [BAD, BAD], [BAD]), SKIP)


def test_a_checksum_is_compared_only_where_it_is_asked_for(tmp_path: Path) -> None:
    (path,) = shards_of(tmp_path, [video(labels=[1])])
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)

    check([path], ReadOptions(verify_checksums=False))
    with pytest.raises(CorruptRecordError, match="checksum"):
        check([path])


def test_labels_are_looked_for_in_other_records_and_shards(tmp_path: Path) -> None:
    check(shards_of(tmp_path, [video(), video(labels=[1])]))
    check(shards_of(tmp_path, [video()], [video()], [video(labels=[1])]))


def test_shards_without_labels_are_refused_with_how_many_videos_were_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        check(shards_of(tmp_path, [video()] * 40, [video()] * 2))

    assert str(caught.value) == (
        "data.train: none of the 42 videos has labels; there is nothing to learn from, or to score"
    )


def test_what_lies_behind_the_first_records_is_left_to_the_reader(tmp_path: Path) -> None:
    most = [video()] * MOST_RECORDS

    check(shards_of(tmp_path, [*most, video(labels=[1])]))
    check(shards_of(tmp_path, [BAD] * MOST_RECORDS + [video(labels=[1])]), SKIP)
    check(shards_of(tmp_path, *[most] * (MOST_SHARDS + 1)))
    with pytest.raises(ValueError, match=f"none of the {MOST_SHARDS * MOST_RECORDS} videos has labels"):
        check(shards_of(tmp_path, *[most] * MOST_SHARDS))


def test_another_level_is_refused_by_the_first_records_where_bad_ones_are_skipped_too(tmp_path: Path) -> None:
    paths = shards_of(tmp_path, *[[video(labels=[1])] * (MOST_RECORDS + 9)] * (MOST_SHARDS + 1))

    with pytest.raises(CorruptRecordError, match="rgb: no such list of frames"):
        check(paths, SKIP, FeatureSpec({"rgb": 4}, num_classes=9))


def test_labels_that_are_not_needed_are_not_looked_for(tmp_path: Path) -> None:
    check(shards_of(tmp_path, [video()]), OPTIONAL)
    check(shards_of(tmp_path, [video(labels=[99])]), ReadOptions(labels="ignored"))


def test_a_shard_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.tfrecord"):
        check([str(tmp_path / "gone.tfrecord")])
