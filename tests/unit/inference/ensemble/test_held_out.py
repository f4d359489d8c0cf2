"""Shards and videos that weights are found on, apart from those that judge them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.data.video_keys import id_keys
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.ensemble.held_out import SeenVideos, check_apart


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_other_shards_are_no_fault_even_of_the_same_size(tmp_path: Path) -> None:
    shards = [write(tmp_path / name, name.encode() * 100) for name in ("a", "b", "c", "d")]

    check_apart(shards[:2], shards[2:], other_key="data.validation")


def test_a_shard_in_both_lists_is_named(tmp_path: Path) -> None:
    shards = [write(tmp_path / name, name.encode()) for name in ("a", "b", "c")]

    with pytest.raises(
        ConfigError, match=r"^weighting\.shards: 1 of its shards are in data\.test too, the first is .*/b$"
    ):
        check_apart(shards[:2], shards[1:], other_key="data.test")


def test_a_link_to_a_shard_is_the_shard(tmp_path: Path) -> None:
    shard = write(tmp_path / "a", b"x")
    (tmp_path / "link").symlink_to(shard)

    with pytest.raises(ConfigError, match=r"the first is .*/link, there as .*/a$"):
        check_apart([str(tmp_path / "link")], [shard], other_key="data.validation")


def test_a_copy_of_a_shard_is_the_shard(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 << 20)
    shards = [write(tmp_path / name, content) for name in ("a", "b")]

    with pytest.raises(ConfigError, match=r"the first is .*/a, there as .*/b$"):
        check_apart(shards[:1], shards[1:], other_key="data.validation")


def test_shards_that_begin_alike_and_differ_in_size_are_two(tmp_path: Path) -> None:
    check_apart([write(tmp_path / "a", b"x" * 10)], [write(tmp_path / "b", b"x" * 11)], other_key="data.validation")


def test_empty_files_are_no_copies_of_each_other(tmp_path: Path) -> None:
    check_apart([write(tmp_path / "a", b"")], [write(tmp_path / "b", b"")], other_key="data.validation")


def test_videos_that_were_seen_are_named_up_to_three_of_them() -> None:
    seen = SeenVideos(id_keys(["one", "two", "three", "a name that is longer than its key", "five"]))
    seen.check_new(id_keys(["six", "seven"]))
    seen.check_new(id_keys([]))

    with pytest.raises(ValueError, match=r"^data\.validation: .* found 'two'; "):
        seen.check_new(id_keys(["six", "two"]))
    with pytest.raises(ValueError, match=r"found 'five', 'one', 'blake2b:\w+' and 1 more so far; "):
        seen.check_new(id_keys(["five", "one", "a name that is longer than its key", "two"]))
