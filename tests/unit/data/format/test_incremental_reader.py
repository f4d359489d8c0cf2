"""A shard that arrives in parts gives the records, and the errors, of the same shard on a disk."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from tests.support.shards import FRAMED, PAYLOADS, SHARD, STARTS
from yt8m_ray.data.errors import CorruptRecordError, RecordTooLargeError
from yt8m_ray.data.format.incremental_reader import ArrivingShard
from yt8m_ray.data.format.tfrecord import frame_record, read_payloads

FORMS: dict[str, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip.compress, "zlib": zlib.compress}


def parts_of(data: bytes, size: int) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def receive(parts: Iterable[bytes], *, max_record_bytes: int = 10_000) -> tuple[list[bytes], str | None]:
    """Returns all payloads, and the error that ended them."""
    shard = ArrivingShard("body", max_record_bytes=max_record_bytes)
    payloads: list[bytes] = []

    def take() -> None:
        while (records := shard.next_records()) is not None:
            assert records.first == len(payloads)
            bounds = zip(records.starts.tolist(), records.ends.tolist(), strict=True)
            payloads.extend(records.data[start:end].tobytes() for start, end in bounds)

    try:
        for part in parts:
            shard.feed(part)
            take()
        shard.finish()
        take()
    except CorruptRecordError as error:
        return payloads, str(error)
    return payloads, None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_any_parts_give_all_records(form: str, size: int) -> None:
    assert receive(parts_of(FORMS[form](SHARD), size)) == (PAYLOADS, None)


def test_a_record_is_returned_as_soon_as_its_last_byte_is_there() -> None:
    shard = ArrivingShard("body", max_record_bytes=10_000)
    shard.feed(FRAMED[0][:-1])
    assert shard.next_records() is None
    shard.feed(FRAMED[0][-1:])
    records = shard.next_records()
    assert records is not None and len(records) == 1
    assert shard.next_records() is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [5, 10**6])
def test_every_damaged_byte_ends_it_with_the_error_of_the_same_shard_on_a_disk(form: str, size: int) -> None:
    packed = FORMS[form](SHARD)
    for position in range(0, len(packed), 97):
        damaged = bytearray(packed)
        damaged[position] ^= 0x10
        expected: list[bytes] = []
        reason = None
        try:
            expected.extend(bytes(payload) for _, _, payload in read_payloads(io.BytesIO(damaged), path="body"))
        except CorruptRecordError as error:
            reason = str(error)
        found, found_reason = receive(parts_of(bytes(damaged), size))
        assert found_reason == reason
        assert found[: len(expected)] == expected and len(found) <= len(PAYLOADS)


@pytest.mark.parametrize("kept", [5, 12, STARTS[1] - 2, STARTS[1] + 30, len(SHARD) - 1])
def test_a_shard_that_is_cut_short_says_so(kept: int) -> None:
    payloads, reason = receive([SHARD[:kept]])
    assert payloads == PAYLOADS[: sum(start <= kept for start in STARTS) - 1]
    assert reason is not None and "found" in reason


def test_no_bytes_are_no_shard() -> None:
    assert receive([]) == ([], "body: record 0 at byte 0: 0 bytes: no record")


@pytest.mark.parametrize("whole", [True, False])
def test_a_large_record_is_refused_whether_it_has_arrived_or_is_promised(whole: bool) -> None:
    data = frame_record(b"ab") + frame_record(bytes(101))
    shard = ArrivingShard("body", max_record_bytes=100)
    shard.feed(data if whole else data[:40])
    records = shard.next_records()
    assert records is not None and len(records) == 1
    with pytest.raises(CorruptRecordError, match=r"record 1 at byte 18: 101 bytes.* at most 100 are taken") as caught:
        shard.next_records()
    assert isinstance(caught.value.__cause__, RecordTooLargeError)


def test_a_large_record_is_not_unpacked_first() -> None:
    bomb = gzip.compress(frame_record(np.zeros(50_000_000, np.uint8).tobytes()))
    payloads, reason = receive(parts_of(bomb, 1000))
    assert payloads == [] and "50000000 bytes promised, at most 10000 are taken" in str(reason)
