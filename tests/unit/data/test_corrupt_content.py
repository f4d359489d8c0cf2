"""Records whose framing is sound and whose content is not, or is unusual: what each means, and why it is rejected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.shards import FAIL, FRAMED, ROWS, SKIP, SPEC, assert_delivers, clip, read
from tests.support.wire import field
from yt8m_ray.data.format.example import decode_record, encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import ReadOptions

MEANS = FeatureSpec({"mean_rgb": 8, "mean_audio": 3}, num_classes=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train0042.tfrecord"


def labels(*class_ids: int) -> dict[str, Any]:
    return {"labels": np.array(class_ids, np.int64)}


def video(context: dict[str, Any] | None = None, **lists: Any) -> bytes:
    """A clip of two frames whose context and lists are changed; None leaves one out."""
    features = {"id": [b"v"], **labels(3), **(context or {})}
    sequences = {"rgb": np.full((2, 8), 7, np.uint8), "audio": np.full((2, 3), 9, np.uint8), **lists}
    return encode_sequence_example(
        {name: values for name, values in features.items() if values is not None},
        {name: steps for name, steps in sequences.items() if steps is not None},
    )


def entry(name: bytes, feature: bytes) -> bytes:
    """A context with one more feature, in the bytes of the wire."""
    return field(1, field(1, field(1, name) + field(2, feature)))


def text(value: bytes) -> bytes:
    return field(1, field(1, value))


DEFAULT = VideoRow("v", np.repeat(np.array([[7, 9]], np.uint8), (8, 3), axis=1).repeat(2, axis=0), np.array([3]))


def row(*, name: str = "v", num_frames: int = 2, class_ids: tuple[int, ...] | None = (3,)) -> VideoRow:
    frames = np.resize(DEFAULT.frames, (num_frames, SPEC.dim))
    return VideoRow(name, frames, None if class_ids is None else np.array(class_ids, np.int32))


def of(num_frames: int) -> dict[str, Any]:
    return {"rgb": np.full((num_frames, 8), 7, np.uint8), "audio": np.full((num_frames, 3), 9, np.uint8)}


FLOATS = [np.full(8, 7, np.float32)] * 2

CONTENT: dict[str, tuple[bytes, VideoRow | str]] = {
    "ordinary": (video(), row()),
    "float frames": (video(rgb=FLOATS), "parse: rgb: expected one byte string a frame, found 8 float32 values"),
    "integer frames": (video(audio=[np.arange(3)] * 2), "parse: audio: expected one byte string a frame"),
    "more rgb than audio": (video(rgb=of(5)["rgb"]), "parse: all features must have the same number of frames"),
    "more audio than rgb": (video(audio=of(3)["audio"]), "parse: all features must have the same number of frames"),
    "more beyond the limit": (video(**{**of(31), "audio": of(32)["audio"]}), "parse: all features must have the same"),
    "as many frames as are kept": (video(**of(30)), row(num_frames=30)),
    "a frame more than is kept": (video(**of(31)), row(num_frames=30)),
    "301 frames": (video(**of(301)), row(num_frames=30)),
    "no frames": (video(**of(0)), row(num_frames=0)),
    "no frames of one feature": (video(audio=of(0)["audio"]), "parse: all features must have the same number"),
    "no list of frames": (video(audio=None), "parse: audio: no such list of frames"),
    "frames of another size": (video(rgb=np.zeros((2, 7), np.uint8)), "parse: rgb: expected 8 bytes a frame, found 7"),
    "a frame of another size": (video(rgb=[[bytes(8)], [bytes(9)]]), "parse: rgb: expected 8 bytes a frame, found 9"),
    "two values in a frame": (video(rgb=[[bytes(8)] * 2] * 2), "parse: rgb: expected one byte string a frame, found 2"),
    "labels missing": (video({"labels": None}), row(class_ids=None)),
    "labels of no kind": (video({"labels": None}) + entry(b"labels", b""), row(class_ids=None)),
    "labels empty": (video(labels()), row(class_ids=())),
    "labels duplicate": (video(labels(4, 4, 9, 4)), row(class_ids=(4, 9))),
    "labels unsorted": (video(labels(49, 0, 20)), row(class_ids=(0, 20, 49))),
    "a label too large": (video(labels(3, 50)), "label: labels: class id 50 is out of range, valid are 0 to 49"),
    "a label of 40 bits": (video(labels(1 << 40)), f"label: labels: class id {1 << 40} is out of range"),
    "a negative label": (video(labels(3, -1)), "label: labels: class id -1 is out of range, valid are 0 to 49"),
    "a label modulo 2^32": (video(labels(3 + (1 << 32))), f"label: labels: class id {3 + (1 << 32)} is out of range"),
    "labels as floats": (video({"labels": np.ones(2, np.float32)}), "label: labels: expected int64 values"),
    "labels as text": (video({"labels": [b"3"]}), "label: labels: expected int64 values"),
    "id missing": (video({"id": None}), "parse: the video has no id"),
    "id empty": (video({"id": [b""]}), "parse: id: expected one byte string that is not empty"),
    "no id in the list": (video({"id": []}), "parse: id: expected one byte string that is not empty"),
    "two ids": (video({"id": [b"v", b"w"]}), "parse: id: expected one byte string that is not empty"),
    "id an integer": (video({"id": np.array([7])}), "parse: id: expected one byte string that is not empty"),
    "id not UTF-8": (video({"id": [b"v\xff"]}), "parse: id: b'v\\xff' is not UTF-8"),
    "id half a character": (video({"id": ["é".encode()[:1]]}), "parse: id: b'\\xc3' is not UTF-8"),
    "id of many characters": (video({"id": ["vidéo".encode()]}), row(name="vidéo")),
    "a huge id": (video({"id": [b"v" * 100_000]}), row(name="v" * 100_000)),
    "the other id key": (video({"id": None, "video_id": [b"w"]}), row(name="w")),
    "both id keys": (video({"video_id": [b"w"]}), row()),
    "the id twice": (video() + entry(b"id", text(b"last")), row(name="last")),
    "the id taken back": (video() + entry(b"id", b""), "parse: the video has no id"),
    "the labels twice": (
        video() + encode_example(labels(8)),
        row(class_ids=(8,)),
    ),
    "the frames twice": (
        video(rgb=of(9)["rgb"]) + encode_sequence_example({}, {"rgb": of(2)["rgb"]}),
        row(),
    ),
    "a key in parts of a name": (video({"i": [b"x"], "idd": [b"y"], "label": np.array([1])}, rg=of(1)["rgb"]), row()),
    "an unknown field of each kind": (
        b"\x78\x05\x79" + bytes(8) + video() + field(15, b"x") + b"\x7b\x08\x01\x7c" + b"\x7d" + bytes(4),
        row(),
    ),
    "unknown features": (video({"x": [b"1", b""], "y": np.ones(2, np.float32), "z": np.array([-1])}, w=[]), row()),
    "another message's bytes": (b"\x08\x96\x01", "parse: rgb: no such list of frames; found no feature"),
    "a length beyond the record": (video()[:-1], "parse: "),
    "a context beyond the record": (b"\x0a\x7f" + video()[2:], "parse: "),
    "text": (b"id,labels,mean_rgb", "parse: "),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_record_means_what_it_says_or_is_rejected_with_its_cause(path: Path, name: str) -> None:
    payload, expected = CONTENT[name]
    path.write_bytes(FRAMED[0] + frame_record(payload) + FRAMED[1])

    skipped, failed = read(path, SKIP), read(path, FAIL)

    if isinstance(expected, str):
        cause, _, reason = expected.partition(": ")
        assert_delivers(skipped, [0, 1])
        assert skipped.causes == [(1, cause)]
        place = f"{path}: record 1 at byte {len(FRAMED[0])}: "
        assert skipped.rejections[0].message.startswith(place + reason)
        assert_delivers(failed, [0])
        assert str(failed.error) == skipped.rejections[0].message
    else:
        assert failed.error is None and skipped.rejections == []
        whole = PackedVideos.from_rows([ROWS[0], expected, ROWS[1]], SPEC)
        for found in (skipped.videos, failed.videos):
            assert found.video_ids.tolist() == whole.video_ids.tolist()
            assert found.num_labels.tolist() == whole.num_labels.tolist()
            assert found.num_frames.tolist() == whole.num_frames.tolist()
            np.testing.assert_array_equal(found.frames, whole.frames)
            np.testing.assert_array_equal(found.labels, whole.labels)


# Any byte of a record, with checksums that are right: so that what meets it is the decoder.

MEAN = encode_example(
    {"id": [b"a"], **labels(3, 7), "mean_rgb": np.arange(8, dtype=np.float32), "mean_audio": np.ones(3, np.float32)}
)


@pytest.mark.parametrize(("payload", "spec"), [(clip("a", 2, [3, 7]), SPEC), (MEAN, MEANS)], ids=["frames", "means"])
def test_any_other_value_of_any_byte_is_read_as_the_decoder_reads_it(
    path: Path, payload: bytes, spec: FeatureSpec
) -> None:
    damaged = [
        payload[:position] + bytes([value]) + payload[position + 1 :]
        for position in range(len(payload))
        for value in (range(256) if position < 60 or os.environ.get("YT8M_SOAK") == "1" else (0, 1, 10, 127, 128, 255))
    ]
    path.write_bytes(b"".join(map(frame_record, damaged)))

    found = read(path, ReadOptions(on_corrupt="skip"), spec)

    rejected = {rejection.record: rejection for rejection in found.rejections}
    rows = []
    for record, content in enumerate(damaged):
        try:
            expected = to_row(decode_record(content), spec)
        except ValueError as error:
            assert rejected.pop(record).message.endswith(str(error))
        else:
            rows.append(expected)
    assert not rejected
    whole = PackedVideos.from_rows(rows, spec)
    assert found.videos.video_ids.tolist() == whole.video_ids.tolist()
    for part in ("num_frames", "num_labels", "labels"):
        np.testing.assert_array_equal(getattr(found.videos, part), getattr(whole, part))
    assert found.videos.frames.tobytes() == whole.frames.tobytes()
