"""Every way in which a shard can be damaged: what is delivered, what is rejected, and that nothing is lost silently.

The shard of the exhaustive tests has some 4 KB; `skip` and `fail` meet the same damage.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.shards import (
    ALL,
    FAIL,
    FRAMED,
    PAYLOADS,
    ROWS,
    SHARD,
    SKIP,
    SPEC,
    STARTS,
    assert_delivers,
    assert_stops,
    read,
)
from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.tfrecord import frame_record, read_payloads
from yt8m_ray.data.pipeline.packed_videos import Rejection, ShardEnd
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks

IS_SOAK = os.environ.get("YT8M_SOAK") == "1"

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zlib": zlib.compress}


def test_the_shard_has_four_kilobytes() -> None:
    assert 4000 < len(SHARD) < 4400


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
    for bit in flips(path, SHARD, step=1 if IS_SOAK else 3):
        record = int(np.searchsorted(STARTS, bit // 8, side="right")) - 1
        skipped = read(path, SKIP)
        assert_delivers(skipped, [*ALL[:record], *ALL[record + 1 :]])
        assert skipped.causes == [(record, "crc")]
        assert skipped.rejections[0].message.startswith(f"{path}: record {record} at byte {STARTS[record]}: ")


def test_any_flipped_bit_stops_the_reader_at_its_record(path: Path) -> None:
    for bit in flips(path, SHARD, step=1 if IS_SOAK else 5):
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
    for _ in flips(path, PACKERS[kind](SHARD), step=1 if IS_SOAK else 7):
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


@pytest.mark.parametrize(("first", "last"), [(0, 6), (0, 0), (1, 1), (2, 4), (6, 6)])
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

LONG = FRAMED[0] * 18000


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

    assert found == (18000 + len(ALL), [], None)


def test_a_record_that_is_appended_in_part_is_rejected(path: Path) -> None:
    num_videos, rejections, _ = read_while(path, lambda: append(path, FRAMED[1][:-1]), SKIP)
    assert (num_videos, [(found.record, found.cause) for found in rejections]) == (18000, [(18000, "length")])

    num_videos, _, error = read_while(path, lambda: append(path, FRAMED[1][:-1]), FAIL)
    assert num_videos == 18000
    assert (error.record, error.offset, error.cause) == (18000, len(LONG), "length")


@pytest.mark.parametrize("cut", [0, 1, 200], ids=["between two records", "by a byte", "within a record"])
def test_a_shard_that_shrinks_is_an_error_even_where_it_ends_between_two_records(path: Path, cut: int) -> None:
    size = len(FRAMED[0]) * 17500 - cut

    num_videos, rejections, _ = read_while(path, lambda: os.truncate(path, size), SKIP)
    assert num_videos == (17500 if not cut else 17499)
    assert [(found.record, found.cause) for found in rejections] == [(num_videos, "length")]

    num_videos, _, error = read_while(path, lambda: os.truncate(path, size), FAIL)
    assert (error.record, error.offset) == (num_videos, num_videos * len(FRAMED[0]))
    assert error.reason == f"the file has lost {len(LONG) - size} bytes since it was opened"


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

    assert payloads == [(record, STARTS[record], PAYLOADS[record]) for record in (0, 1, 3, 5)]
    assert [(error.record, error.offset, error.cause) for error in rejected] == [
        (2, STARTS[2], "crc"),
        (4, STARTS[4], "crc"),
        (6, STARTS[6], "length"),
    ]
