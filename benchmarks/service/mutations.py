"""Bodies that were right once: bits flipped, ends cut off, parts of others put in, lengths that lie, odd JSON."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.schema import FRAME_FEATURES

_HEAD_BYTES = 200
"""Most mutations fall in here: behind it lie the frames, of which any byte is a right one."""


def mutate(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Returns a record that was changed in one to three ways."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        body = rng.choice(_BINARY)(body, others, rng)
    return body


def mutate_json(video: VideoRow, rng: random.Random) -> bytes:
    """Returns a JSON body that was right before one of its values, keys or bytes was changed."""
    tree = _json_tree(video)
    if rng.random() < 0.7:
        _change_somewhere(tree, rng)
    body = json.dumps(tree).encode()
    return body if rng.random() < 0.6 else mutate(body, [body], rng)


def _flip_bits(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[_place(len(changed), rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return body[: rng.randint(0, len(body))]


def _splice(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    start = rng.randint(0, len(other))
    at = _place(len(body) + 1, rng)
    return body[:at] + other[start : start + rng.choice((1, 10, 1000, 10_000))] + body[at:]


def _leave_out(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(len(body) + 1, rng)
    return body[:at] + body[at + rng.choice((1, 2, 10, 1000)) :]


def _lie(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Puts a varint, such as a length, in the place of some bytes."""
    value = rng.choice((0, 1, 127, 128, 2**14, 2**21, 2**31 - 1, 2**32, 2**63, 2**64 - 1, rng.getrandbits(32)))
    varint = bytearray()
    while value > 127:
        varint.append(value & 127 | 128)
        value >>= 7
    varint.append(value)
    at = _place(len(body) + 1, rng)
    return body[:at] + bytes(varint) + body[at + rng.choice((1, len(varint))) :]


def _noise(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 1000)))


def _place(length: int, rng: random.Random) -> int:
    return rng.randrange(max(1, min(length, _HEAD_BYTES) if rng.random() < 0.7 else length))


_BINARY: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _flip_bits,
    _cut,
    _splice,
    _leave_out,
    _lie,
    _noise,
)

_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 256, 1e308, 2**63, 2**200, "", "a", "é\ud800", "=" * 100, "AAAA", [], {}, [[]], [None]),
    *([[0] * 1024], [0] * 1023, {"a": 1}, "\x00", "../../etc/passwd", "http://127.0.0.1/", 1e-320),
)


def _json_tree(video: VideoRow) -> dict[str, Any]:
    rgb = FRAME_FEATURES["rgb"]
    parts = {"rgb": video.frames[:, :rgb], "audio": video.frames[:, rgb:]}
    features = {name: base64.b64encode(part.tobytes()).decode() for name, part in parts.items()}
    return {"videos": [{"video_id": video.video_id, **features}], "top_k": 3}


def _change_somewhere(tree: dict[str, Any], rng: random.Random) -> None:
    place: Any = rng.choice((tree, tree["videos"][0], tree["videos"][0]))
    key = rng.choice([*place, "unknown"])
    what = rng.randrange(3)
    if what == 0:
        place.pop(key, None)
    elif what == 1 and isinstance(place.get(key), str):
        place[key] = mutate(place[key].encode(), [b"A"], rng).decode("utf-8", "replace")
    else:
        place[key] = rng.choice(_ODD)
