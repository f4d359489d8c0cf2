"""Single records by the compiled loops, against the decoder that reads every record."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.support.messages import SPECS, Messages
from yt8m_ray.data.format.example import decode_record, encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.pipeline.single_record import OrdinaryRecords, encode_row

FRAMES = FeatureSpec({"rgb": 8, "audio": 3}, num_classes=50, max_frames=6)
MEANS = FeatureSpec({"mean_rgb": 8, "mean_audio": 3}, num_classes=50)
NO_LABELS = np.empty(0, np.int32)


def clip(num_frames: int) -> VideoRow:
    frames = np.random.default_rng(num_frames).integers(0, 256, (num_frames, 11), np.uint8)
    return VideoRow("abcd", frames, NO_LABELS)


@pytest.mark.parametrize("num_frames", [1, 5, 6])
def test_a_clip_is_read_as_it_was_written(num_frames: int) -> None:
    row = clip(num_frames)

    found = OrdinaryRecords(FRAMES).read(encode_row(row, FRAMES))

    assert found is not None and found.video_id == "abcd"
    np.testing.assert_array_equal(found.frames, row.frames)


def test_means_are_read_as_they_were_written() -> None:
    row = VideoRow("abcd", np.arange(11, dtype=np.float32).reshape(1, 11) / 7, NO_LABELS)

    found = OrdinaryRecords(MEANS).read(memoryview(encode_row(row, MEANS)))

    assert found is not None and found.frames.dtype == np.float32
    np.testing.assert_array_equal(found.frames, row.frames)


def test_a_clip_that_is_too_long_is_told_by_one_frame_more_than_it_may_have() -> None:
    found = OrdinaryRecords(FRAMES).read(encode_row(clip(40), FRAMES))

    assert found is not None and len(found.frames) == 7


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{}", encode_example({"id": [b"x"]})])
def test_what_is_no_video_is_left_to_the_decoder_that_says_why(payload: bytes) -> None:
    assert OrdinaryRecords(FRAMES).read(payload) is None


def test_a_video_whose_features_differ_in_length_is_left_too() -> None:
    frames = {"rgb": np.ones((4, 8), np.uint8), "audio": np.ones((3, 3), np.uint8)}

    assert OrdinaryRecords(FRAMES).read(encode_sequence_example({"id": [b"x"]}, frames)) is None


@pytest.mark.parametrize("num_others", [1000, 1100])
@pytest.mark.parametrize("are_lists", [True, False])
def test_a_record_of_a_thousand_features_is_left_to_the_decoder_which_reads_it(
    num_others: int, are_lists: bool, tmp_path: Path
) -> None:
    row = clip(3)
    others = {f"{index}": [b"x"] for index in range(num_others)}
    steps = {name: np.ones((1, 1), np.uint8) for name in others}
    frames = dict(zip(FRAMES.sizes, np.split(row.frames, [8], axis=1), strict=True))
    context, lists = {"id": [b"abcd"], "labels": np.array([7])}, frames
    payload = encode_sequence_example(
        context if are_lists else {**context, **others}, {**steps, **lists} if are_lists else lists
    )

    found = OrdinaryRecords(FRAMES).read(payload)

    assert (found is None) == (num_others > 1024)
    (tmp_path / "shard").write_bytes(frame_record(payload) * 2)
    for _, each in read_rows(str(tmp_path / "shard"), FRAMES):
        np.testing.assert_array_equal(each.frames, row.frames)
        assert each.labels is not None and each.labels.tolist() == [7]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_whatever_is_read_is_what_the_complete_decoder_reads(spec: FeatureSpec) -> None:
    records, num_read = OrdinaryRecords(spec), 0
    for seed in range(400):
        payload = Messages(random.Random(seed), spec).record()
        found = records.read(payload)
        if found is None:
            continue
        num_read += 1
        expected = to_row(decode_record(payload), spec, labelled=False)
        assert found.video_id == expected.video_id
        np.testing.assert_array_equal(found.frames[: spec.max_frames], expected.frames)
    assert num_read > 50
