"""Video ids as keys of 16 bytes, for tables of millions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

# A byte for the length, and 15 for an id: YouTube's have 11 characters, those of the data set 4.
KEY_BYTES = 16
_LONGEST_ID = KEY_BYTES - 1
_IS_DIGEST = 255  # in place of the length
_KEY_DTYPE = np.dtype(">u8")  # so that keys sort as their bytes do


def id_keys(video_ids: Sequence[str]) -> np.ndarray:
    """Returns the keys of N ids, uint64 [N, 2]; equal for equal ids, and for others only if BLAKE2b-120 collides."""
    keys = np.frombuffer(b"".join(map(_key, video_ids)), _KEY_DTYPE)
    return keys.reshape(-1, 2).astype(np.uint64)


def id_of(key: np.ndarray) -> str:
    """Returns the id that a key [2] stands for, or `blake2b:` and the digest of one longer than 15 bytes."""
    data = key.astype(_KEY_DTYPE).tobytes()
    return f"blake2b:{data[1:].hex()}" if data[0] == _IS_DIGEST else data[1 : 1 + data[0]].decode()


def _key(video_id: str) -> bytes:
    encoded = video_id.encode()
    # The length stands first, so that an id that ends with zero bytes is not taken for a shorter one.
    if len(encoded) <= _LONGEST_ID:
        return bytes([len(encoded)]) + encoded.ljust(_LONGEST_ID, b"\0")
    return bytes([_IS_DIGEST]) + hashlib.blake2b(encoded, digest_size=_LONGEST_ID).digest()
