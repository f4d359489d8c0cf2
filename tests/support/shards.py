"""A shard of some 4 KB to be damaged, and everything that its reader says about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.wire import field
from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.example import decode_record, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, to_row
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.data.pipeline.packed_videos import PackedVideos, Rejection, ShardEnd
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks

SPEC = FeatureSpec({"rgb": 8, "audio": 3}, num_classes=50, max_frames=30)
BLOCK_BYTES = 100 * SPEC.dim  # so that the shard is two blocks
FAIL, SKIP = (ReadOptions(on_corrupt=policy, block_bytes=BLOCK_BYTES) for policy in ("fail", "skip"))


def clip(name: str, num_frames: int, labels: list[int]) -> bytes:
    rng = np.random.default_rng(num_frames)
    lists = {key: rng.integers(0, 256, (num_frames, size), dtype=np.uint8) for key, size in SPEC.sizes.items()}
    return encode_sequence_example({"id": [name.encode()], "labels": np.array(labels, np.int64)}, lists)


def padded(payload: bytes, size: int) -> bytes:
    return payload + field(15, bytes(size - len(payload) - 2))


# One flipped bit makes 360 the length 376, 78 01: the first bytes of a ZLIB stream.
PAYLOADS = [
    padded(clip("a", 12, [3, 7]), 360),
    clip("an id of some length", 32, []),
    clip("more frames than are kept", 47, [49]),
    clip("nö frames", 0, [1]),
    clip("unsorted labels", 30, [9, 0, 9]),
    clip("one frame", 1, [8]),
    clip("the last", 29, [30]),
]
FRAMED = [frame_record(payload) for payload in PAYLOADS]
SHARD = b"".join(FRAMED)
STARTS = np.cumsum([0, *map(len, FRAMED)]).tolist()
ROWS = [to_row(decode_record(payload), SPEC) for payload in PAYLOADS]
ALL = list(range(len(PAYLOADS)))


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
    for name in ("num_frames", "frames", "num_labels", "labels", "is_labelled"):
        first, second = getattr(found.videos, name), getattr(expected, name)
        assert first.dtype == second.dtype and np.array_equal(first, second)


def assert_stops(found: Found, path: Path, record: int, offset: int, cause: str) -> None:
    """Asserts that reading stopped at a record, which the message names, after all before it."""
    error = found.error
    assert error is not None
    assert (error.path, error.record, error.offset, error.cause) == (str(path), record, offset, cause)
    assert str(error).startswith(f"{path}: record {record} at byte {offset}: ")
