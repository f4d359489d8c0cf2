"""Records of every shape that the wire format allows, and some that it does not; and both ways of reading them.

Random numbers come from the caller.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from tests.support.wire import varint
from yt8m_ray.data.errors import UNLABELLED, RecordError
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec, LabelPolicy, VideoRow, to_row
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks

SPECS = (
    FeatureSpec({"rgb": 4, "audio": 2}, num_classes=300, max_frames=5),
    FeatureSpec({"audio": 1, "rgb": 130}, num_classes=20, max_frames=2),
    FeatureSpec({"rgb": 3, "rgbx": 3}, num_classes=300, max_frames=5),
    FeatureSpec({"mean_rgb": 4, "mean_audio": 2}, num_classes=300),
    FeatureSpec({"mean_audio": 33}, num_classes=20),
)

NAMES = ("id", "video_id", "labels", "rgb", "audio", "mean_rgb", "mean_audio", "rgbx")
ODD_NAMES = ("", "i", "idd", "label", "labels2", "rg", "mean_", "video", "é", "\0", "x" * 130)
UNKNOWN = (
    b"\x78\x05",
    b"\x79" + bytes(8),
    b"\x7a\x03abc",
    b"\x7a\x00",
    b"\x7b\x08\x01\x7c",
    b"\x7b\x7c",
    b"\x7d" + bytes(4),
    b"\x08\x01",
    b"\x0a\x00",
    b"\x12\x00",
    b"\x15" + bytes(4),
)


_FLOATS = (0.0, -1.5, 3e38, -3e38, 1e-45, 0.25)
_NOT_FINITE = tuple(bytes.fromhex(bits) for bits in ("0000c07f", "0000c0ff", "0100807f", "0000807f", "000080ff"))


class Messages:
    """Makes records for a spec; each record is as odd as chance has it.

    Args:
        random: Decides everything.
        spec: What readers will look for.
    """

    def __init__(self, random: Random, spec: FeatureSpec) -> None:
        self._random = random
        self._spec = spec
        # One odd thing finds more than many: a record with many is refused for the first of them.
        count = random.choice((0, 1, 1, 1, 1, 2, 3, 20))
        self._odd_decisions = {random.randrange(random.choice((30, 100, 200))) for _ in range(count)}
        self._num_decisions = 0

    def record(self) -> bytes:
        """Returns a record, or something like one."""
        payload = self._message()
        for _ in range(self._random.choice((0, 0, 0, 1, 3))):
            payload = self._damaged(payload)
        return payload

    def _is_odd(self) -> bool:
        self._num_decisions += 1
        return self._num_decisions - 1 in self._odd_decisions

    def _damaged(self, payload: bytes) -> bytes:
        if self._random.random() < 0.3:
            return payload[: self._random.randint(0, len(payload))]
        start = self._random.randint(0, len(payload))
        end = min(start + self._random.choice((0, 1, 1, 2, 5)), len(payload))
        added = self._random.choice((b"", b"\x0a", b"\x12", b"\x1a", b"\x00", b"\x80", b"\xff", b"\x01"))
        if self._random.random() < 0.2:
            added = self._random.randbytes(self._random.randint(1, 3))
        return payload[:start] + added + payload[end:]

    def _field(self, number: int, content: bytes, *, may_lie: bool = True) -> bytes:
        tag, size = varint(number << 3 | 2), len(content)
        if self._is_odd():
            tag = varint(number << 3 | 2, self._random.randint(1, 6))
        if may_lie and self._is_odd() and self._random.random() < 0.2:
            size = max(size + self._random.choice((-2, -1, 1, 2, 100, 1 << 27, 1 << 28, 1 << 31, 1 << 34)), 0)
        width = self._random.randint(1, 6) if self._is_odd() else 1
        return tag + varint(size, width) + content

    def _join(self, parts: list[bytes]) -> bytes:
        """Returns the parts of a message, perhaps in another order, one twice, one left out, others between."""
        if self._is_odd():
            self._random.shuffle(parts)
        if parts and self._is_odd():
            parts.insert(self._random.randrange(len(parts) + 1), self._random.choice(parts))
        if parts and self._is_odd():
            del parts[self._random.randrange(len(parts))]
        if self._is_odd():
            parts.insert(self._random.randrange(len(parts) + 1), self._random.choice(UNKNOWN))
        return b"".join(parts)

    def _in_parts(self, number: int, entries: list[bytes]) -> list[bytes]:
        """Returns a message of entries as one field, or as two, which readers join."""
        if not self._is_odd():
            return [self._field(number, self._join(entries))]
        cut = self._random.randint(0, len(entries))
        return [self._field(number, self._join(part)) for part in (entries[:cut], entries[cut:])]

    def _strings(self, values: Sequence[bytes]) -> bytes:
        return self._list(1, [self._field(1, value) for value in values])

    def _numbers(self, number: int, values: list[bytes], unpacked_tag: bytes) -> bytes:
        if self._is_odd():
            values = [*values, self._random.choice((b"\x00", b"\x80", b"\x00\x00\x00", b"\x80" * 10 + b"\x00"))]
        if self._is_odd():
            cut = self._random.randint(0, len(values))
            parts = [unpacked_tag + value for value in values[:cut]]
            return self._list(number, [*parts, self._field(1, b"".join(values[cut:]))])
        return self._list(number, [self._field(1, b"".join(values))])

    def _floats(self, count: int) -> bytes:
        values = [struct.pack("<f", self._random.choice(_FLOATS)) for _ in range(count)]
        if values and self._is_odd():
            values[self._random.randrange(count)] = self._random.choice(_NOT_FINITE)
        return self._numbers(2, values, b"\x0d")

    def _integers(self, values: Sequence[int]) -> bytes:
        width = self._random.choice((2, 4, 5, 6, 10, 11)) if self._is_odd() else 1
        return self._numbers(3, [varint(value, width) for value in values], b"\x08")

    def _list(self, number: int, parts: list[bytes]) -> bytes:
        """Returns a feature with one list; or with several, which merge or replace one another, or with none."""
        feature = self._field(number, self._join(parts))
        if not self._is_odd():
            return feature
        other = self._random.choice(
            (b"", b"\x0a\x00", b"\x12\x00", b"\x1a\x00", b"\x0a\x03\x0a\x01v", b"\x1a\x02\x08\x05")
        )
        return self._random.choice((feature + other, other + feature, other, feature + feature))

    def _entry(self, name: str, value: bytes) -> bytes:
        if self._is_odd():
            name = self._random.choice(NAMES + ODD_NAMES)
        key = b"\xff" if self._is_odd() and self._random.random() < 0.2 else name.encode()
        return self._field(1, self._join([self._field(1, key), self._field(2, value)]))

    def _labels(self) -> list[int]:
        classes, random = self._spec.num_classes, self._random
        count = random.choice((0, 1, 3, 3, 20))
        labels = [random.randrange(classes) for _ in range(count)]
        if not self._is_odd():
            labels.sort()
        if self._is_odd():
            labels.append(
                random.choice((-1, classes - 1, classes, 1 << 31, 1 << 32, 1 << 35, -(1 << 63), (1 << 63) - 1))
            )
        return labels

    def _context(self) -> list[bytes]:
        random = self._random
        video_id = random.choice((b"abcd", b"v", b"", "é".encode(), b"\xff")) if self._is_odd() else b"abcd"
        video_id = video_id * random.choice((1, 1, 40, 2000)) if self._is_odd() else video_id
        entries = [
            self._entry("video_id" if random.random() < 0.3 else "id", self._strings([video_id])),
            self._entry("labels", self._integers(self._labels())),
        ]
        if self._is_odd():
            other = self._entry(random.choice(("id", "video_id")), self._strings([b"other"]))
            entries.insert(random.randint(0, 2), other)
        if self._spec.is_video_level or self._is_odd():
            for name, size in self._spec.sizes.items():
                entries.append(self._entry(name, self._floats(size + self._is_odd())))
        if random.random() < 0.3:
            value = random.choice((b"", self._strings([b"x", b""]), self._floats(2), self._integers([-1, 7])))
            entries.append(self._entry(random.choice(NAMES + ODD_NAMES), value))
        return entries

    def _lists(self) -> list[bytes]:
        random = self._random
        num_frames = random.choice((0, 1, 2, self._spec.max_frames, self._spec.max_frames + 3)) % 310
        entries = []
        for name, size in self._spec.sizes.items():
            count = max(num_frames + (random.choice((-1, 1)) if self._is_odd() else 0), 0)
            entries.append(self._entry(name.removeprefix("mean_"), self._steps(count, size)))
        if random.random() < 0.2:
            entries.append(self._entry(random.choice(NAMES + ODD_NAMES), self._steps(num_frames, 2)))
        return entries

    def _steps(self, count: int, size: int) -> bytes:
        random = self._random
        if self._is_odd():  # all alike, and odd all the same
            step = self._step(random.randbytes(size))
            return self._join([step] * count)
        if self._is_odd() or random.random() < 0.02:  # the last is cut off
            steps = b"".join(self._step(random.randbytes(size)) for _ in range(count + 1))
            return steps[: len(steps) - random.randint(1, size + 5)]
        return self._join([self._step(random.randbytes(size + self._is_odd())) for _ in range(count)])

    def _step(self, frame: bytes) -> bytes:
        if self._is_odd():
            return self._field(1, random_feature(self._random, frame))
        return self._field(1, self._strings([frame]))

    def _message(self) -> bytes:
        parts = self._in_parts(2 if self._is_odd() else 1, self._context())
        if not self._spec.is_video_level or self._random.random() < 0.2:
            lists = self._lists()
            if self._is_odd():  # each where the other belongs
                parts = [self._field(1, self._join([*self._context(), *lists]))]
            else:
                parts += self._in_parts(2, lists)
        return self._join(parts)


def random_feature(random: Random, frame: bytes) -> bytes:
    """Returns a feature that is no frame."""
    return random.choice(
        (b"", b"\x0a\x00", b"\x12\x06\x0a\x04" + bytes(4), b"\x1a\x02\x08\x01", b"\x0a\x04\x0a\x00\x0a\x00", frame)
    )


def decode_slowly(payload: bytes, spec: FeatureSpec, *, labels: LabelPolicy) -> VideoRow | RecordError:
    """Returns what the complete decoder makes of a payload."""
    try:
        return to_row(decode_record(payload), spec, labelled=labels != "ignored")
    except RecordError as error:
        return error


Decode = Callable[[bytes], VideoRow | RecordError]


def assert_read_as_decoded(
    path: Path, payloads: Sequence[bytes], spec: FeatureSpec, options: ReadOptions, decode: Decode
) -> None:
    """Asserts that a shard of these payloads gives what `decode` makes of each, in blocks under `skip`."""
    path.write_bytes(b"".join(map(frame_record, payloads)))
    videos: dict[int, VideoRow] = {}
    rejected: dict[int, tuple[str, str]] = {}
    num_records = 0
    for block in read_blocks(str(path), spec, options):
        found = block.videos
        frames = np.split(found.frames, np.cumsum(found.num_frames)[:-1])
        labels = np.split(found.labels, np.cumsum(found.num_labels)[:-1])
        for index, record in enumerate(found.records.tolist()):
            assert record not in videos
            known = labels[index] if found.is_labelled[index] else None
            videos[record] = VideoRow(found.video_ids[index], frames[index], known)
        for rejection in block.rejections:
            assert rejection.record not in rejected
            rejected[rejection.record] = rejection.cause, rejection.message
        num_records += sum(end.num_records for end in block.ends)
    assert num_records == len(payloads) == len(videos) + len(rejected)
    for record, payload in enumerate(payloads):
        expected = decode(payload)
        if isinstance(expected, RecordError):
            assert record in rejected, f"{payload.hex()}: {expected}, found {videos[record]}"
            cause, message = rejected[record]
            assert cause == expected.cause and message.endswith(f": {expected}"), payload.hex()
        elif expected.labels is None and options.labels == "required":
            assert rejected[record][0] == UNLABELLED, payload.hex()
        else:
            assert record in videos, f"{payload.hex()}: {rejected[record]}"
            video = videos[record]
            assert video.video_id == expected.video_id, payload.hex()
            assert (video.labels is None) == (expected.labels is None), payload.hex()
            if video.labels is not None and expected.labels is not None:
                assert video.labels.dtype == expected.labels.dtype, payload.hex()
                assert video.labels.tolist() == expected.labels.tolist(), payload.hex()
            assert video.frames.dtype == expected.frames.dtype, payload.hex()
            assert video.frames.shape == expected.frames.shape, payload.hex()
            assert _bits(video.frames) == _bits(expected.frames), payload.hex()


def _bits(frames: np.ndarray) -> bytes:
    """Returns the bytes of frames, with one NaN for all: JSON, by which TensorFlow answers, knows no other."""
    return (
        np.where(np.isnan(frames), np.float32(np.nan), frames).tobytes()
        if frames.dtype.kind == "f"
        else frames.tobytes()
    )
