"""Every way in which a shard can be damaged: what is delivered, what is rejected, and that nothing is lost silently.

The shard of the exhaustive tests has some 4 KB; `skip` and `fail` meet the same damage.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.example import decode_record, encode_example, encode_sequence_example
from yt8m_ray.data.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.packed import PackedVideos, Rejection, ShardEnd
from yt8m_ray.data.reader import ReadOptions, read_blocks
from yt8m_ray.data.tfrecord import frame_record, read_payloads
from yt8m_ray.data.wire import encode_delimited

SPEC = FeatureSpec({"rgb": 8, "audio": 3}, num_classes=50, max_frames=30)
MEANS = FeatureSpec({"mean_rgb": 8, "mean_audio": 3}, num_classes=50)
BLOCK_BYTES = 64 * SPEC.dim  # so that the shard is several blocks
FAIL, SKIP = (ReadOptions(on_corrupt=policy, block_bytes=BLOCK_BYTES) for policy in ("fail", "skip"))


def clip(name: str, num_frames: int, labels: list[int], *, more: bytes = b"") -> bytes:
    rng = np.random.default_rng(num_frames)
    lists = {key: rng.integers(0, 256, (num_frames, size), dtype=np.uint8) for key, size in SPEC.sizes.items()}
    return encode_sequence_example({"id": [name.encode()], "labels": np.array(labels, np.int64)}, lists) + more


def padded(payload: bytes, size: int) -> bytes:
    return payload + encode_delimited(15, bytes(size - len(payload) - 2))


# One flipped bit makes 360 the length 376, 78 01: the first bytes of a ZLIB stream.
PAYLOADS = [
    padded(clip("a", 13, [3, 7]), 360),
    clip("an id of some length", 17, []),
    clip("more frames than are kept", 41, [49]),
    clip("no frames", 0, [1]),
    clip("ünüsual", 12, [9, 0, 9]),
    clip("f", 30, [1, 2, 3, 4, 5, 6, 7]),
    clip("two contexts", 9, [5], more=encode_delimited(1, b"")),
    clip("one frame", 1, [8]),
    clip("the last", 20, [30]),
]
FRAMED = [frame_record(payload) for payload in PAYLOADS]
SHARD = b"".join(FRAMED)
STARTS = np.cumsum([0, *map(len, FRAMED)]).tolist()
ROWS = [to_row(decode_record(payload), SPEC) for payload in PAYLOADS]
ALL = list(range(len(PAYLOADS)))
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zlib": zlib.compress}


def test_the_shard_has_four_kilobytes() -> None:
    assert 4000 < len(SHARD) < 4400


@dataclass(frozen=True)
class Found:
    """All that a reader says of a shard; `error` where it stopped instead of reaching the end."""

    videos: PackedVideos
    rejections: list[Rejection]
    end: ShardEnd | None
    error: CorruptRecordError | None

    @property
    def causes(self) -> list[tuple[int, str]]:
        return [(rejection.record, rejection.cause) for rejection in self.rejections]


def read(path: Path, options: ReadOptions = SKIP, spec: FeatureSpec = SPEC) -> Found:
    """Returns what is found, after checking that delivered + rejected = present."""
    blocks, error = [], None
    try:
        blocks.extend(read_blocks(str(path), spec, options))
    except CorruptRecordError as caught:
        error = caught
    videos = PackedVideos.concatenate([block.videos for block in blocks] or [PackedVideos.from_rows([], spec)])
    rejections = [rejection for block in blocks for rejection in block.rejections]
    ends = [end for block in blocks for end in block.ends]
    if options.on_corrupt == "fail":
        assert not rejections and len(ends) == (error is None)
    else:
        assert error is None and len(ends) == 1
    if ends:
        arrived = sorted([*videos.records.tolist(), *(rejection.record for rejection in rejections)])
        assert arrived == list(range(ends[0].num_records))
        assert (ends[0].message is None) == (not rejections)
    return Found(videos, rejections, ends[0] if ends else None, error)


_EXPECTED: dict[tuple[int, ...], PackedVideos] = {}


def assert_delivers(found: Found, records: list[int]) -> None:
    """Asserts that exactly these records of the undamaged shard are there, bit for bit."""
    key = tuple(records)
    if key not in _EXPECTED:
        _EXPECTED[key] = PackedVideos.from_rows([ROWS[record] for record in records], SPEC)
    expected = _EXPECTED[key]
    assert found.videos.video_ids.tolist() == expected.video_ids.tolist()
    for name in ("num_frames", "frames", "num_labels", "labels"):
        first, second = getattr(found.videos, name), getattr(expected, name)
        assert first.dtype == second.dtype and np.array_equal(first, second)


def assert_stops(found: Found, path: Path, record: int, offset: int, cause: str) -> None:
    """Asserts that reading stopped at a record, which the message names, after all before it."""
    error = found.error
    assert error is not None
    assert (error.path, error.record, error.offset, error.cause) == (str(path), record, offset, cause)
    assert str(error).startswith(f"{path}: record {record} at byte {offset}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train0042.tfrecord"


def test_the_undamaged_shard_is_delivered(path: Path) -> None:
    path.write_bytes(SHARD)

    for options in (SKIP, FAIL):
        found = read(path, options)
        assert_delivers(found, ALL)
        assert found.end == ShardEnd(0, len(ALL))


def test_a_truncation_at_any_byte_costs_the_record_that_is_cut(path: Path) -> None:
    path.write_bytes(SHARD)
    for size in reversed(range(len(SHARD))):
        os.truncate(path, size)
        skipped, failed = read(path, SKIP), read(path, FAIL)
        whole = int(np.searchsorted(STARTS, size, side="right")) - 1
        assert_delivers(skipped, ALL[:whole])
        assert_delivers(failed, ALL[:whole])
        if size in STARTS[1:]:
            assert skipped.causes == [] and failed.error is None
        else:
            assert skipped.causes == [(whole, "length")]
            assert_stops(failed, path, whole, STARTS[whole], "length")


def flips(path: Path, data: bytes, step: int = 1) -> Iterator[int]:
    """Writes the file with one bit after the other turned over, yielding the bit's number."""
    path.write_bytes(data)
    file = os.open(path, os.O_WRONLY)
    try:
        for bit in range(0, len(data) * 8, step):
            os.pwrite(file, bytes([data[bit // 8] ^ 1 << bit % 8]), bit // 8)
            yield bit
            os.pwrite(file, data[bit // 8 : bit // 8 + 1], bit // 8)
    finally:
        os.close(file)


def test_any_flipped_bit_costs_the_record_that_it_is_in(path: Path) -> None:
    for bit in flips(path, SHARD):
        record = int(np.searchsorted(STARTS, bit // 8, side="right")) - 1
        skipped = read(path, SKIP)
        assert_delivers(skipped, [*ALL[:record], *ALL[record + 1 :]])
        assert skipped.causes == [(record, "crc")]
        assert skipped.rejections[0].message.startswith(f"{path}: record {record} at byte {STARTS[record]}: ")


def test_any_flipped_bit_stops_the_reader_at_its_record(path: Path) -> None:
    for bit in flips(path, SHARD):
        record = int(np.searchsorted(STARTS, bit // 8, side="right")) - 1
        failed = read(path, FAIL)
        assert_delivers(failed, ALL[:record])
        assert_stops(failed, path, record, STARTS[record], "crc")


@pytest.mark.parametrize("kind", PACKERS)
def test_a_truncation_of_a_compressed_shard_costs_what_it_cuts_off(path: Path, kind: str) -> None:
    packed = PACKERS[kind](SHARD)
    path.write_bytes(packed)
    for size in reversed(range(len(packed))):
        os.truncate(path, size)
        left = zlib.decompressobj(zlib.MAX_WBITS + 32).decompress(packed[:size])
        whole = int(np.searchsorted(STARTS, len(left), side="right")) - 1
        skipped, failed = read(path, SKIP), read(path, FAIL)
        assert_delivers(skipped, ALL[:whole])
        assert skipped.causes == [(whole, "length")]
        assert_delivers(failed, ALL[:whole])
        assert_stops(failed, path, whole, STARTS[whole], "length")


@pytest.mark.parametrize("kind", PACKERS)
def test_a_flipped_bit_of_a_compressed_shard_changes_no_video(path: Path, kind: str) -> None:
    ids = [row.video_id for row in ROWS]
    for _ in flips(path, PACKERS[kind](SHARD), step=1 if os.environ.get("YT8M_SOAK") == "1" else 7):
        found = read(path)
        # Where the damage takes one header more, those behind it have other numbers: their ids say which they are.
        records = [ids.index(name) for name in found.videos.video_ids]
        assert records == sorted(set(records))
        assert_delivers(found, records)
        assert records == ALL or found.rejections


def test_records_before_the_damage_of_a_compressed_shard_are_kept(path: Path) -> None:
    packed = bytearray(gzip.compress(SHARD))
    packed[-8] ^= 1  # the checksum of the stream, behind all records

    path.write_bytes(packed)

    assert_delivers(read(path, SKIP), ALL)
    assert_delivers(read(path, FAIL), ALL)
    assert_stops(read(path, FAIL), path, len(ALL), len(SHARD), "crc")


def test_a_damaged_header_in_a_compressed_shard_that_is_cut_short_costs_only_these_two(path: Path) -> None:
    damaged = bytearray(SHARD)
    damaged[STARTS[1]] ^= 1
    packed = gzip.compress(damaged, 0)
    path.write_bytes(packed[: -8 - 50])  # without compression: 50 bytes of the last record

    found = read(path)

    assert_delivers(found, [0, *ALL[2:-1]])
    assert found.causes == [(1, "crc"), (ALL[-1], "length")]


def length_field(length: int, *, is_right: bool) -> bytes:
    packed = struct.pack("<Q", length)
    checksum = frame_record(packed)[-4:]  # that of a payload is made in the same way
    return packed + (checksum if is_right else bytes([checksum[0] ^ 1]) + checksum[1:])


LENGTHS = {
    "0": lambda _: 0,
    "2^63": lambda _: 2**63,
    "-1": lambda _: 2**64 - 1,
    "2^31": lambda _: 2**31,
    "2^31 - 1": lambda _: 2**31 - 1,
    "one less": lambda size: size - 1,
    "one more": lambda size: size + 1,
    "half": lambda size: size // 2,
    "twice": lambda size: 2 * size,
    "to the end": lambda _: len(SHARD) - 16,
}


@pytest.mark.parametrize("is_right", [True, False], ids=["right checksum", "wrong checksum"])
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_a_length_that_lies_costs_its_record(path: Path, length: Callable[[int], int], is_right: bool) -> None:
    for record in ALL:
        start, size = STARTS[record], len(PAYLOADS[record])
        path.write_bytes(SHARD[:start] + length_field(length(size), is_right=is_right) + SHARD[start + 12 :])

        skipped, failed = read(path, SKIP), read(path, FAIL)

        assert_delivers(skipped, [*ALL[:record], *ALL[record + 1 :]])
        ((found, cause),) = skipped.causes
        assert found == record and cause in (("crc", "length") if is_right else ("crc",))
        assert_delivers(failed, ALL[:record])
        assert_stops(failed, path, record, start, cause)


def test_a_length_that_swallows_records_costs_no_other_than_its_own(path: Path) -> None:
    for first, last in ((0, 2), (3, 5), (1, len(ALL) - 1)):
        swallowed = length_field(STARTS[last + 1] - STARTS[first] - 16, is_right=True)
        path.write_bytes(SHARD[: STARTS[first]] + swallowed + SHARD[STARTS[first] + 12 :])

        found = read(path)

        assert_delivers(found, [*ALL[:first], *ALL[first + 1 :]])
        assert found.causes == [(first, "crc")]


def test_lengths_that_lie_in_each_other_take_no_more_than_a_moment(path: Path) -> None:
    count = 100_000
    headers = (length_field(16 * (count - index - 1), is_right=True) + b"none" for index in range(count))
    path.write_bytes(b"".join(headers) + SHARD)

    found = read(path)

    assert_delivers(found, ALL)
    assert {cause for _, cause in found.causes} == {"crc"}


@pytest.mark.parametrize(("first", "last"), [(0, 8), (0, 0), (1, 1), (2, 5), (8, 8)])
def test_records_overwritten_with_zero_bytes_are_one_gap(path: Path, first: int, last: int) -> None:
    start, end = STARTS[first], STARTS[last + 1]
    path.write_bytes(SHARD[:start] + bytes(end - start) + SHARD[end:])

    skipped, failed = read(path, SKIP), read(path, FAIL)

    assert_delivers(skipped, [*ALL[:first], *ALL[last + 1 :]])
    assert skipped.causes == [(first, "crc")]
    assert_stops(failed, path, first, start, "crc")


def test_zero_bytes_behind_the_last_record_are_one_gap(path: Path) -> None:
    path.write_bytes(SHARD + bytes(5000))

    assert_delivers(read(path), ALL)
    assert read(path).causes == [(len(ALL), "crc")]


def test_an_empty_payload_is_no_video(path: Path) -> None:
    path.write_bytes(FRAMED[0] + frame_record(b"") + FRAMED[1])

    assert_delivers(read(path), [0, 1])
    assert read(path).causes == [(1, "parse")]


@pytest.mark.parametrize("size", [0, 1, 2, 4, 11, 12, 15, 16, 4096, 3_000_000])
def test_a_file_of_zero_bytes_is_one_rejection(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))

    assert read(path).causes == [(0, "crc" if size >= 12 else "length")]
    assert_stops(read(path, FAIL), path, 0, 0, "crc" if size >= 12 else "length")


# A file that changes while it is read. Its first chunk is larger than the reader's window, so that there is a second.

LONG = FRAMED[0] * 9000


def read_while(path: Path, change: Callable[[], None], options: ReadOptions) -> tuple[int, list[Rejection], Any]:
    """Returns (videos, rejections, error) where `change` happens after the first block."""
    path.write_bytes(LONG)
    num_videos, rejections, error = 0, [], None
    try:
        for number, block in enumerate(read_blocks(str(path), SPEC, options)):
            num_videos += len(block.videos)
            rejections += block.rejections
            if number == 0:
                change()
    except CorruptRecordError as caught:
        error = caught
    return num_videos, rejections, error


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_whole_records_that_are_appended_before_the_end_is_reached_are_read(path: Path) -> None:
    found = read_while(path, lambda: append(path, SHARD), SKIP)

    assert found == (9000 + len(ALL), [], None)


def test_a_record_that_is_appended_in_part_is_rejected(path: Path) -> None:
    num_videos, rejections, _ = read_while(path, lambda: append(path, FRAMED[1][:-1]), SKIP)
    assert (num_videos, [(found.record, found.cause) for found in rejections]) == (9000, [(9000, "length")])

    num_videos, _, error = read_while(path, lambda: append(path, FRAMED[1][:-1]), FAIL)
    assert num_videos == 9000
    assert (error.record, error.offset, error.cause) == (9000, len(LONG), "length")


@pytest.mark.parametrize("cut", [0, 1, 200], ids=["between two records", "by a byte", "within a record"])
def test_a_shard_that_shrinks_is_an_error_even_where_it_ends_between_two_records(path: Path, cut: int) -> None:
    size = len(FRAMED[0]) * 8500 - cut

    num_videos, rejections, _ = read_while(path, lambda: os.truncate(path, size), SKIP)
    assert num_videos == (8500 if not cut else 8499)
    assert [(found.record, found.cause) for found in rejections] == [(num_videos, "length")]

    num_videos, _, error = read_while(path, lambda: os.truncate(path, size), FAIL)
    assert (error.record, error.offset) == (num_videos, num_videos * len(FRAMED[0]))
    assert error.reason == f"the file has lost {len(LONG) - size} bytes since it was opened"


# What a record says, rather than how it is framed.


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
    return encode_delimited(1, encode_delimited(1, encode_delimited(1, name) + encode_delimited(2, feature)))


def text(value: bytes) -> bytes:
    return encode_delimited(1, encode_delimited(1, value))


DEFAULT = VideoRow("v", np.repeat(np.array([[7, 9]], np.uint8), (8, 3), axis=1).repeat(2, axis=0), np.array([3]))


def row(*, name: str = "v", num_frames: int = 2, class_ids: tuple[int, ...] = (3,)) -> VideoRow:
    frames = np.resize(DEFAULT.frames, (num_frames, SPEC.dim))
    return VideoRow(name, frames, np.array(class_ids, np.int32))


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
    "labels missing": (video({"labels": None}), row(class_ids=())),
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
        b"\x78\x05\x79" + bytes(8) + video() + encode_delimited(15, b"x") + b"\x7b\x08\x01\x7c" + b"\x7d" + bytes(4),
        row(),
    ),
    "unknown features": (video({"x": [b"1", b""], "y": np.ones(2, np.float32), "z": np.array([-1])}, w=[]), row()),
    "another message's bytes": (b"\x08\x96\x01", "parse: rgb: no such list of frames; the record's lists: none"),
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


def test_payloads_one_by_one_are_accounted_for_like_blocks(path: Path) -> None:
    damaged = bytearray(SHARD)
    damaged[STARTS[2] + 3] ^= 1
    damaged[STARTS[4] + 20] ^= 1
    rejected: list[CorruptRecordError] = []
    path.write_bytes(damaged[:-1])

    with path.open("rb", buffering=0) as stream:
        payloads = [
            (record, offset, bytes(payload))
            for record, offset, payload in read_payloads(stream, path=str(path), on_corrupt=rejected.append)
        ]

    assert payloads == [(record, STARTS[record], PAYLOADS[record]) for record in (0, 1, 3, 5, 6, 7)]
    assert [(error.record, error.offset, error.cause) for error in rejected] == [
        (2, STARTS[2], "crc"),
        (4, STARTS[4], "crc"),
        (8, STARTS[8], "length"),
    ]
