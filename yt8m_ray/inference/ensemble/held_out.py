"""Whether the videos that weights are found on are others than those that judge the weights."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from yt8m_ray.data.storage.filesystem import file_sizes, open_stream
from yt8m_ray.data.video_keys import KEY_BYTES, id_of
from yt8m_ray.errors import ConfigError

_MOST_NAMED = 3


def check_apart(shards: Sequence[str], others: Sequence[str], *, other_key: str) -> None:
    """Checks that no shard of `weighting.shards` is among those of another key, by its path or by its content.

    ConfigError names the first one that is in both.
    """
    places = {_place(path): path for path in others}
    shared = [(path, places[_place(path)]) for path in shards if _place(path) in places]
    if not shared:
        shared = _same_contents(shards, others)
    if shared:
        path, other = shared[0]
        same = "" if path == other else f", there as {other}"
        raise ConfigError(
            f"weighting.shards: {len(shared)} of its shards are in {other_key} too, the first is {path}{same}"
        )


class SeenVideos:
    """The videos that weights were found on, by keys, uint64 [N, 2], from `id_keys`."""

    def __init__(self, video_keys: np.ndarray) -> None:
        self._keys = set(_as_bytes(video_keys))

    def check_new(self, video_keys: np.ndarray) -> None:
        """Checks that none of some videos is among them; ValueError names the first few that are."""
        seen = [row for row, key in enumerate(_as_bytes(video_keys)) if key in self._keys]
        if seen:
            named = ", ".join(repr(id_of(video_keys[row])) for row in seen[:_MOST_NAMED])
            more = f" and {len(seen) - _MOST_NAMED} more so far" if len(seen) > _MOST_NAMED else ""
            raise ValueError(
                f"data.validation: expected other videos than those of weighting.shards, found {named}{more}; "
                "what weights were found on cannot tell what they are worth"
            )


def _place(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def _same_contents(shards: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of shards whose sizes and first MB are the same."""
    # Only shards of one size are opened.
    by_size = defaultdict(list)
    for path, size in file_sizes(others).items():
        by_size[size].append(path)
    digest = functools.cache(_first_bytes)
    return [
        (path, other)
        for path, size in file_sizes(shards).items()
        if size  # all empty files are alike
        for other in by_size[size]
        if digest(path) == digest(other)
    ]


def _first_bytes(path: str) -> bytes:
    """Returns a hash of a file's first MB as it stands, compressed or not."""
    content, num_read = memoryview(bytearray(1 << 20)), 0
    with open_stream(path) as stream:
        # A stream may return less than it is asked for.
        while num_read < len(content) and (count := stream.readinto(content[num_read:])):
            num_read += count
    return hashlib.sha256(content[:num_read]).digest()


def _as_bytes(video_keys: np.ndarray) -> list[bytes]:
    keys: list[bytes] = np.ascontiguousarray(video_keys).view(np.dtype(f"V{KEY_BYTES}")).ravel().tolist()
    return keys
