from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yt8m_ray.data.inspection.duplicates import Duplicates, find_duplicates
from yt8m_ray.data.video_keys import id_keys


def find(*shards: list[str]) -> Duplicates:
    keys = np.concatenate([id_keys(video_ids) for video_ids in shards])
    numbers = np.repeat(np.arange(len(shards), dtype=np.int32), [len(video_ids) for video_ids in shards])
    records = np.concatenate([np.arange(len(video_ids), dtype=np.int32) for video_ids in shards])
    return find_duplicates(keys, numbers, records)


def test_ids_that_occur_once_are_no_duplicates() -> None:
    assert find(["a", "b"], [], ["ab", ""]) == Duplicates()


def test_no_video_at_all_has_no_duplicate() -> None:
    assert find([]) == Duplicates()


def test_an_id_of_two_shards_is_named_with_both_places() -> None:
    found = find(["a", "bbbb"], ["c", "d", "bbbb"])

    assert (found.num_ids, found.num_videos) == (1, 1)
    assert (found.num_ids_within_shards, found.num_ids_across_shards) == (0, 1)
    assert [(item.video_id, item.places) for item in found.first] == [("bbbb", [(0, 1), (1, 2)])]


def test_an_id_can_be_a_duplicate_both_within_a_shard_and_across() -> None:
    found = find(["a", "x", "a", "y"], ["y", "z", "a"])

    assert (found.num_ids, found.num_videos) == (2, 3)
    assert (found.num_ids_within_shards, found.num_ids_across_shards) == (1, 2)


def test_the_first_duplicates_are_those_of_the_first_videos() -> None:
    ids = [f"{number:02d}" for number in range(30)]

    assert [item.video_id for item in find(ids, ids[::-1]).first] == ids[:10]


def test_of_an_id_with_many_videos_ten_places_are_named() -> None:
    (first,) = find(["a"] * 40).first

    assert first.places == [(0, record) for record in range(10)]


@pytest.mark.parametrize("video_id", ["x" * 15, "x" * 16, "ü" * 8, "x" * 500])
def test_long_ids_are_told_apart(video_id: str) -> None:
    found = find([video_id, video_id + "y"], ["z", video_id])

    assert [item.places for item in found.first] == [[(0, 0), (1, 1)]]
    assert (found.first[0].video_id == video_id) == (len(video_id.encode()) <= 15)


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "c", "d" * 20, "\0", "\0\0", ""]), max_size=6), min_size=1, max_size=5)
)
def test_counts_are_those_of_a_dictionary(shards: list[list[str]]) -> None:
    places: dict[str, list[int]] = {}
    for number, video_ids in enumerate(shards):
        for video_id in video_ids:
            places.setdefault(video_id, []).append(number)
    several = [numbers for numbers in places.values() if len(numbers) > 1]

    found = find(*shards)

    assert found.num_ids == len(several)
    assert found.num_videos == sum(len(numbers) - 1 for numbers in several)
    assert found.num_ids_within_shards == sum(len(set(numbers)) < len(numbers) for numbers in several)
    assert found.num_ids_across_shards == sum(len(set(numbers)) > 1 for numbers in several)
