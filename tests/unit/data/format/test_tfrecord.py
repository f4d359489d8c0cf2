from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.tfrecord import frame_record, read_payloads, write_records
from yt8m_ray.data.storage.filesystem import open_stream

PAYLOADS = [b"first record", b"", bytes(range(256)), b"last"]
SHARD = b"".join(frame_record(payload) for payload in PAYLOADS)
PACKERS = {"none": bytes, "gzip": gzip.compress, "zlib": zlib.compress}


def masked_crc_by_the_bit(data: bytes) -> int:
    """CRC-32C from its polynomial, without a table or a library."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) % 2**32 + 0xA282EAD8) % 2**32


def header_of(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc_by_the_bit(packed))


def read(data: bytes, **options: Any) -> list[bytes]:
    return [bytes(payload) for _, _, payload in read_payloads(io.BytesIO(data), path="s", **options)]


def read_until_error(data: bytes, **options: Any) -> tuple[list[bytes], CorruptRecordError]:
    payloads = []
    with pytest.raises(CorruptRecordError) as caught:
        for _, _, payload in read_payloads(io.BytesIO(data), path="train0042.tfrecord", **options):
            payloads.append(bytes(payload))
    return payloads, caught.value


def test_a_record_is_framed_by_its_length_and_two_masked_checksums() -> None:
    payload = b"123456789"

    assert frame_record(payload) == header_of(9) + payload + struct.pack("<I", masked_crc_by_the_bit(payload))


def test_records_are_read_with_their_index_and_offset() -> None:
    found = [(record, offset) for record, offset, _ in read_payloads(io.BytesIO(SHARD), path="s")]

    assert found == [(0, 0), (1, 28), (2, 44), (3, 316)]


@pytest.mark.parametrize("compression", PACKERS)
def test_payloads_survive_writing_and_reading(tmp_path: Path, compression: Any) -> None:
    path = str(tmp_path / "train0001.tfrecord")

    num_records = write_records(path, PAYLOADS, compression=compression)

    with open_stream(path) as stream:
        assert num_records == 4
        assert [bytes(payload) for _, _, payload in read_payloads(stream, path=path)] == PAYLOADS
    assert read(Path(path).read_bytes(), compression=compression) == PAYLOADS


@pytest.mark.parametrize("length", [0x8B1F, 0x9C78, 0x088B1F])
def test_a_length_that_looks_like_a_compressed_stream_is_read_as_a_length(length: int) -> None:
    assert read(frame_record(bytes(length))) == [bytes(length)]


def test_a_gzip_stream_may_have_several_members() -> None:
    assert read(gzip.compress(SHARD[:40]) + gzip.compress(SHARD[40:])) == PAYLOADS


def test_payloads_stay_as_they_were_when_later_ones_are_read() -> None:
    shard = b"".join(frame_record(bytes([index]) * 300_000) for index in range(12))

    payloads = [payload for _, _, payload in read_payloads(io.BytesIO(shard), path="s")]

    assert [(payload[0], payload[-1], len(payload)) for payload in payloads] == [(i, i, 300_000) for i in range(12)]


def test_a_payload_is_read_only() -> None:
    ((_, _, payload),) = read_payloads(io.BytesIO(frame_record(b"abc")), path="s")

    with pytest.raises(TypeError):
        payload[0] = 1


def test_a_record_larger_than_the_buffer_is_read() -> None:
    payload = os.urandom(3_500_000)

    assert read(frame_record(payload) + frame_record(b"x")) == [payload, b"x"]


class Trickle(io.RawIOBase):
    """A stream that gives one to three bytes at a time, as a socket may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(memoryview(buffer)[: 1 + self._data.tell() % 3])


def test_a_stream_may_give_fewer_bytes_than_asked_for() -> None:
    assert [bytes(payload) for _, _, payload in read_payloads(Trickle(SHARD), path="s")] == PAYLOADS


def test_without_verification_a_wrong_payload_passes() -> None:
    changed = bytearray(frame_record(b"abc"))
    changed[12] ^= 1

    assert read(bytes(changed), verify_crc=False) == [b"`bc"]


def test_without_verification_a_wrong_length_is_found_all_the_same() -> None:
    changed = bytearray(frame_record(b"abc"))
    changed[0] ^= 1

    with pytest.raises(CorruptRecordError, match="length"):
        read(bytes(changed), verify_crc=False)


def test_a_truncated_record_is_named_with_its_place_and_sizes() -> None:
    shard = frame_record(bytes(100)) + frame_record(bytes(3071))[: 12 + 2048]

    _, error = read_until_error(shard)

    assert str(error) == "train0042.tfrecord: record 1 at byte 116: 3071 bytes promised, 2048 found"
    assert (error.path, error.record, error.offset, error.cause) == ("train0042.tfrecord", 1, 116, "length")


@pytest.mark.parametrize("length", [2**31, 2**40, 2**63, 2**64 - 1])
def test_a_length_beyond_any_record_is_refused(length: int) -> None:
    _, error = read_until_error(header_of(length) + bytes(100))

    assert error.reason == f"{length} bytes promised, at most 2147483647 are possible"


def test_a_lying_length_takes_no_memory() -> None:
    stream = io.BytesIO(header_of(2**31 - 1) + bytes(100))
    tracemalloc.start()

    with pytest.raises(CorruptRecordError, match="2147483647 bytes promised, 100 found"):
        list(read_payloads(stream, path="s"))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # one buffer of 4 MiB


def test_a_compressed_lying_length_takes_no_more_memory_than_the_stream_unpacks_to() -> None:
    stream = io.BytesIO(zlib.compress(header_of(2**31 - 1) + bytes(10**7)))
    tracemalloc.start()

    with pytest.raises(CorruptRecordError, match="2147483647 bytes promised, 10000000 found"):
        list(read_payloads(stream, path="s"))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e7


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_an_empty_shard_is_refused(pack: Any) -> None:
    _, error = read_until_error(pack(b""))

    assert str(error) == "train0042.tfrecord: record 0 at byte 0: 0 bytes: no record"


@pytest.mark.parametrize("compression", PACKERS)
def test_an_empty_file_is_refused_whatever_its_compression(compression: str) -> None:
    assert read_until_error(b"", compression=compression)[1].reason == "0 bytes: no record"


@pytest.mark.parametrize("text", [b"hello", b"video_id,labels\nabcd,1 2 3\n", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_a_file_of_another_kind_is_called_no_shard(text: bytes) -> None:
    assert "not a TFRecord shard" in read_until_error(text)[1].reason


def test_bytes_after_the_last_record_are_refused() -> None:
    payloads, error = read_until_error(SHARD + b"\0\0\0")

    assert payloads == PAYLOADS
    assert error.reason == "12 bytes of header expected, 3 found"


def test_bytes_after_a_zlib_stream_are_refused() -> None:
    payloads, error = read_until_error(zlib.compress(SHARD) + b"rest")

    assert payloads == PAYLOADS
    assert error.reason == "bytes follow the end of the ZLIB stream"


def test_a_plain_shard_read_as_gzip_is_refused() -> None:
    assert "GZIP stream is corrupt" in read_until_error(SHARD, compression="gzip")[1].reason


@given(st.binary(max_size=200), st.sampled_from(["auto", "none", "gzip", "zlib"]))
def test_any_bytes_give_records_or_the_error_that_names_one(data: bytes, compression: Any) -> None:
    try:
        read(data, compression=compression)
    except CorruptRecordError as error:
        assert error.path == "s"


def test_the_error_crosses_a_process_boundary() -> None:
    _, error = read_until_error(SHARD[:30])

    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.record, copy.offset, copy.cause) == (str(error), 1, 28, "length")


def test_a_failing_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    def payloads() -> Iterator[bytes]:
        yield b"one"
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_records(str(tmp_path / "s.tfrecord"), payloads())

    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_keeps_the_shard_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "s.tfrecord"
    write_records(str(path), PAYLOADS)

    with pytest.raises(ValueError, match="no record to write"):
        write_records(str(path), [])

    assert path.read_bytes() == SHARD
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_compression_is_refused_before_a_file_exists(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected none, gzip or zlib, found 'auto'"):
        write_records(str(tmp_path / "s.tfrecord"), PAYLOADS, compression="auto")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compression", PACKERS)
def test_the_same_payloads_give_the_same_bytes(tmp_path: Path, compression: Any) -> None:
    for name in ("a", "b"):
        write_records(str(tmp_path / name), PAYLOADS, compression=compression)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_missing_shard_is_named(tmp_path: Path, scheme: str) -> None:
    path = f"{scheme}{tmp_path}/missing.tfrecord"

    with pytest.raises(FileNotFoundError) as caught:
        open_stream(path)

    assert path in str(caught.value)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_is_no_shard(tmp_path: Path, scheme: str) -> None:
    path = f"{scheme}{tmp_path}"

    with pytest.raises(IsADirectoryError) as caught:
        open_stream(path)

    assert path in str(caught.value)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Takes the right to read every file from a test that root runs."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_shard_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.tfrecord"
    path.write_bytes(SHARD)
    path.chmod(0)

    with as_nobody(), pytest.raises(PermissionError, match=r"s\.tfrecord"):
        open_stream(str(path))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_compressed_shard_is_opened_as_it_stands_on_any_filesystem(tmp_path: Path, scheme: str) -> None:
    path = str(tmp_path / "s.tfrecord.gz")
    write_records(path, PAYLOADS, compression="gzip")

    with open_stream(f"{scheme}{path}") as stream:
        payloads = [bytes(payload) for _, _, payload in read_payloads(stream, path=path, compression="gzip")]

    assert payloads == PAYLOADS
