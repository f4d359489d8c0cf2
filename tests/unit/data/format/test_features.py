from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.example import Fields, decode_record, encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.pipeline.shard_reader import read_rows

FRAME_SPEC = FeatureSpec({"rgb": 6, "audio": 2}, num_classes=100)
VIDEO_SPEC = FeatureSpec({"mean_rgb": 6, "mean_audio": 2}, num_classes=100)


def frames_of(num_frames: int, size: int, first: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return (first + np.arange(num_frames * size)).astype(np.uint8).reshape(num_frames, size)


def frame_fields(num_frames: int = 4, **changes: Any) -> Fields:
    """The fields of a clip, with some changed; None leaves one out."""
    context: dict[str, Any] = {"id": [b"abcd"], "labels": np.array([7, 3])}
    sequences: dict[str, Any] = {"rgb": frames_of(num_frames, 6), "audio": frames_of(num_frames, 2, 100)}
    for name, values in changes.items():
        (sequences if name in sequences else context)[name] = values
    return decode_record(encode_sequence_example(without_none(context), without_none(sequences)))


def video_fields(**changes: Any) -> Fields:
    mean_rgb, mean_audio = np.arange(6, dtype=np.float32), np.array([-1.5, 2.5], np.float32)
    context = {"id": [b"abcd"], "labels": np.array([7, 3]), "mean_rgb": mean_rgb, "mean_audio": mean_audio} | changes
    return decode_record(encode_example(without_none(context)))


def without_none(features: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in features.items() if values is not None}


def refusal(fields: Fields, spec: FeatureSpec) -> RecordError:
    with pytest.raises(RecordError) as caught:
        to_row(fields, spec)
    return caught.value


def test_the_features_of_a_frame_follow_one_another_in_the_configured_order() -> None:
    rgb, audio = frames_of(4, 6), frames_of(4, 2, 100)

    rgb_first = to_row(frame_fields(), FRAME_SPEC).frames
    audio_first = to_row(frame_fields(), FeatureSpec({"audio": 2, "rgb": 6}, num_classes=100)).frames

    np.testing.assert_array_equal(rgb_first, np.hstack([rgb, audio]))
    np.testing.assert_array_equal(audio_first, np.hstack([audio, rgb]))
    assert rgb_first.dtype == np.uint8


def test_one_feature_of_several_may_be_read_alone() -> None:
    row = to_row(frame_fields(), FeatureSpec({"audio": 2}, num_classes=100))

    np.testing.assert_array_equal(row.frames, frames_of(4, 2, 100))


def test_labels_are_sorted_and_each_once() -> None:
    row = to_row(frame_fields(labels=np.array([5, 2, 99, 2, 0])), FRAME_SPEC)

    assert row.labels.tolist() == [0, 2, 5, 99] and row.labels.dtype == np.int32


def test_no_list_of_labels_and_an_empty_one_are_two_things() -> None:
    unknown, empty = (to_row(frame_fields(labels=values), FRAME_SPEC) for values in (None, np.array([], np.int64)))

    assert unknown.labels is None
    assert empty.labels is not None and empty.labels.shape == (0,)


@pytest.mark.parametrize("class_id", [100, 4000, -1, 2**62, -(2**63)])
def test_a_class_id_out_of_range_is_refused(class_id: int) -> None:
    error = refusal(frame_fields(labels=np.array([3, class_id])), FRAME_SPEC)

    assert error.reason == f"labels: class id {class_id} is out of range, valid are 0 to 99"
    assert error.cause == "label"


@pytest.mark.parametrize(
    ("labels", "found"), [(np.array([1.0], np.float32), "1 float32 values"), ([b"a"], "1 byte strings of 1 bytes")]
)
def test_labels_of_another_kind_are_refused(labels: Any, found: str) -> None:
    error = refusal(frame_fields(labels=labels), FRAME_SPEC)

    assert (error.reason, error.cause) == (f"labels: expected int64 values, found {found}", "label")


def test_frames_beyond_the_limit_are_dropped() -> None:
    row = to_row(frame_fields(310), FRAME_SPEC)

    np.testing.assert_array_equal(row.frames[:, :6], frames_of(310, 6)[:300])
    assert row.frames.shape == (300, 8)


def test_a_clip_may_have_no_frames() -> None:
    assert to_row(frame_fields(0), FRAME_SPEC).frames.shape == (0, 8)


def test_features_with_different_numbers_of_frames_are_refused() -> None:
    error = refusal(frame_fields(3, audio=frames_of(5, 2)), FRAME_SPEC)

    assert error.reason == "all features must have the same number of frames, found rgb 3, audio 5"
    assert error.cause == "parse"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rgb": None}, "rgb: no such list of frames; found audio (2 bytes a frame)"),
        ({"rgb": frames_of(4, 5)}, "rgb: expected 6 bytes a frame, found 5"),
        ({"rgb": [[bytes(6)], [bytes(7)]]}, "rgb: expected 6 bytes a frame, found 7 in frame 1"),
        (
            {"rgb": [np.zeros(6, np.float32)] * 4},
            "rgb: expected one byte string a frame, found 6 float32 values in frame 0",
        ),
        (
            {"rgb": [[bytes(6)], [bytes(6)] * 2]},
            "rgb: expected one byte string a frame, found 2 byte strings in frame 1",
        ),
        (
            {"id": None},
            "the video has no id; expected one of the keys id, video_id; "
            "found audio (2 bytes a frame), rgb (6 bytes a frame)",
        ),
        ({"id": []}, "id: expected one byte string that is not empty, found 0 byte strings"),
        ({"id": [b""]}, "id: expected one byte string that is not empty, found 1 byte strings of 0 bytes"),
        ({"id": np.array([5])}, "id: expected one byte string that is not empty, found 1 int64 values"),
        ({"id": [b"ab\xff"]}, r"id: b'ab\xff' is not UTF-8"),
    ],
)
def test_a_video_that_lacks_something_is_refused(changes: dict[str, Any], reason: str) -> None:
    error = refusal(frame_fields(**changes), FRAME_SPEC)

    assert (error.reason, error.cause) == (reason, "parse")


def test_a_video_level_record_has_no_frames_to_read() -> None:
    assert refusal(video_fields(), FRAME_SPEC).reason == (
        "rgb: no such list of frames; found mean_audio (2 float32 values), mean_rgb (6 float32 values), "
        "features of the video level"
    )


def test_a_record_of_mediapipe_is_named_for_what_it_is() -> None:
    steps: list[Any] = [np.zeros(6, np.float32)] * 2
    fields = Fields({"clip/data_id": [b"x.mp4"]}, {"RGB/feature/floats": steps, "RGB/feature/timestamp": steps})

    for spec, missing in (
        (FRAME_SPEC, "rgb: no such list of frames"),
        (VIDEO_SPEC, "mean_rgb: no such feature, and no list rgb of frames to average"),
    ):
        assert refusal(fields, spec).reason == (
            f"{missing}; found RGB/feature/floats, RGB/feature/timestamp, clip/data_id (1 byte strings of 5 bytes): a "
            "MediaSequence of MediaPipe, which is read once it is converted to the lists rgb and audio of one byte "
            "string a frame"
        )


def test_of_many_features_the_first_are_named() -> None:
    fields = Fields({f"x{number}": [b""] for number in range(20)}, {})

    reason = refusal(fields, FRAME_SPEC).reason

    assert "x1 (1 byte strings of 0 bytes)" in reason and reason.endswith(" and 12 more")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "index"), [("mean_rgb", 0), ("mean_rgb", 5), ("mean_audio", 1)])
def test_a_value_that_is_not_finite_is_refused(name: str, index: int, value: float) -> None:
    fields = video_fields()
    values = fields.context[name] = np.array(fields.context[name])
    values[index] = value

    error = refusal(fields, VIDEO_SPEC)

    assert error.reason == f"{name}: value {index} of {len(values)} is {value}, not a finite number"
    assert error.cause == "value"


def test_the_largest_finite_numbers_are_read() -> None:
    values = np.array([3.4e38, -3.4e38, 1e-45, 0, -0.0, 1], np.float32)

    assert to_row(video_fields(mean_rgb=values), VIDEO_SPEC).frames[0, :6].tolist() == values.tolist()


@pytest.mark.parametrize("key", ["id", "video_id"])
def test_both_spellings_of_the_id_are_read(key: str) -> None:
    fields = frame_fields(**{"id": None, key: ["été".encode()]})

    assert to_row(fields, FRAME_SPEC).video_id == "été"


def test_video_level_means_are_one_frame() -> None:
    row = to_row(video_fields(), VIDEO_SPEC)

    assert row.frames.dtype == np.float32
    np.testing.assert_array_equal(row.frames, [[0, 1, 2, 3, 4, 5, -1.5, 2.5]])


def test_a_row_does_not_refer_to_its_payload() -> None:
    payload = bytearray(encode_example({"id": [b"abcd"], "mean_rgb": np.arange(6, dtype=np.float32)}))
    row = to_row(decode_record(payload), FeatureSpec({"mean_rgb": 6}, num_classes=100))

    payload[:] = bytes(len(payload))

    np.testing.assert_array_equal(row.frames, [[0, 1, 2, 3, 4, 5]])


def test_missing_means_are_those_of_the_dequantized_frames() -> None:
    rgb = np.array([[0, 255, 128, 127, 1, 2], [255, 255, 128, 0, 1, 4]], np.uint8)

    row = to_row(frame_fields(rgb=rgb, audio=frames_of(2, 2)), FeatureSpec({"mean_rgb": 6}, num_classes=100))

    expected = [
        sum(byte * 4 / 255 + 4 / 512 - 2 for byte in column) / 2 for column in ((int(a), int(b)) for a, b in rgb.T)
    ]
    np.testing.assert_allclose(row.frames, [expected], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean_rgb": np.zeros(5, np.float32)}, "mean_rgb: expected 6 float32 values, found 5 float32 values"),
        ({"mean_rgb": np.zeros(6, np.int64)}, "mean_rgb: expected 6 float32 values, found 6 int64 values"),
        ({"mean_rgb": [bytes(24)]}, "mean_rgb: expected 6 float32 values, found 1 byte strings of 24 bytes"),
        (
            {"mean_rgb": None},
            "mean_rgb: no such feature, and no list rgb of frames to average; found mean_audio (2 float32 values), "
            "features of the video level",
        ),
    ],
)
def test_means_of_another_size_or_kind_are_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(video_fields(**changes), VIDEO_SPEC).reason == reason


def test_no_frames_have_no_mean() -> None:
    assert refusal(frame_fields(0), VIDEO_SPEC).reason == "mean_rgb: no such feature, and 0 frames rgb to average"


def test_a_spec_knows_its_level_and_dimension() -> None:
    assert (FRAME_SPEC.is_video_level, FRAME_SPEC.dim, FRAME_SPEC.dtype) == (False, 8, "uint8")
    assert (VIDEO_SPEC.is_video_level, VIDEO_SPEC.dim, VIDEO_SPEC.dtype) == (True, 8, "float32")


def test_a_spec_mixes_no_levels() -> None:
    with pytest.raises(ValueError, match=r"mean_rgb, audio mix video level \(mean_\*\) and frame level"):
        FeatureSpec({"mean_rgb": 6, "audio": 2}, num_classes=100)


@pytest.mark.parametrize(
    ("sizes", "num_classes", "max_frames"),
    [({}, 100, 300), ({"rgb": 0}, 100, 300), ({"rgb": 1}, 0, 300), ({"rgb": 1}, 1, 0)],
)
def test_a_spec_without_sizes_is_refused(sizes: dict[str, int], num_classes: int, max_frames: int) -> None:
    with pytest.raises(ValueError, match="expected one or more, and sizes and counts of at least 1"):
        FeatureSpec(sizes, num_classes, max_frames)


@given(st.binary(max_size=100))
def test_any_record_gives_a_row_or_a_refusal(payload: bytes) -> None:
    try:
        row = to_row(decode_record(payload), VIDEO_SPEC)
    except RecordError:
        return
    assert row.frames.shape == (1, 8)


def test_the_real_shards_are_read(yt8m_data: Path) -> None:
    def rows_of(folder: str, spec: FeatureSpec) -> list[VideoRow]:
        return [row for path in sorted((yt8m_data / folder).iterdir()) for _, row in read_rows(str(path), spec)]

    v1 = rows_of("yt8m/v1_video", FeatureSpec({"mean_rgb": 1024, "mean_audio": 128}, num_classes=4716))
    v2 = rows_of("yt8m/v2_frame", FeatureSpec({"rgb": 1024, "audio": 128}, num_classes=3862))
    other = rows_of("third_party_shards", FeatureSpec({"rgb": 1024, "audio": 128}, num_classes=3862))

    assert [len(rows) for rows in (v1, v2, other)] == [879, 1, 2]
    assert v2[0].frames.shape == (170, 1152)
    assert sorted(len(row.frames) for row in other) == [141, 184]
