"""Which frames each sampling takes; frame t of clip b holds the number 100 * b + t."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from yt8m_ray.components import SAMPLERS
from yt8m_ray.models.sampling import Sampler

FRAMES = (100.0 * torch.arange(3)[:, None] + torch.arange(8)).unsqueeze(2)
NUM_FRAMES = torch.tensor([8, 3, 0])


def build_sampler(config: dict[str, Any], *, training: bool = False) -> Sampler:
    torch.manual_seed(0)
    return SAMPLERS.build(config).train(training)


def taken(sampler: Sampler, row: int) -> list[int]:
    frames, num_frames = sampler(FRAMES, NUM_FRAMES)
    return [int(value) - 100 * row for value in frames[row, : num_frames[row], 0]]


def test_all_frames_are_taken_as_they_are() -> None:
    frames, num_frames = build_sampler({"name": "all"})(FRAMES, NUM_FRAMES)
    assert frames is FRAMES
    assert num_frames is NUM_FRAMES


def test_uniform_sampling_takes_every_nth_frame_from_the_first() -> None:
    sampler = build_sampler({"name": "uniform", "every": 3})
    assert [taken(sampler, row) for row in range(3)] == [[0, 3, 6], [0], []]


def test_a_sequence_longer_than_the_clip_repeats_its_last_frame() -> None:
    sampler = build_sampler({"name": "sequence", "num_frames": 6}, training=True)
    assert taken(sampler, 1) == [0, 1, 2, 2, 2, 2]


def test_training_sequences_start_at_every_place_where_they_fit() -> None:
    sampler = build_sampler({"name": "sequence", "num_frames": 5}, training=True)
    drawn = [taken(sampler, 0) for _ in range(100)]
    assert {sequence[0] for sequence in drawn} == {0, 1, 2, 3}
    assert all(sequence == list(range(sequence[0], sequence[0] + 5)) for sequence in drawn)


def test_training_draws_every_real_frame_and_no_other() -> None:
    sampler = build_sampler({"name": "random", "num_frames": 100}, training=True)
    assert set(taken(sampler, 0)) == set(range(8))
    assert set(taken(sampler, 1)) == set(range(3))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "random", "num_frames": 4}, [[1, 3, 5, 7], [0, 1, 1, 2], []]),
        ({"name": "sequence", "num_frames": 4}, [[2, 3, 4, 5], [0, 1, 2, 2], []]),
        ({"name": "sample_all", "num_frames": 5}, [[0, 1, 2, 3, 4], [0, 1, 2], []]),
        ({"name": "trimmed", "start": 1, "end": 1, "num_frames": 2}, [[2, 5], [1], []]),
    ],
    ids=["random", "sequence", "sample_all", "trimmed"],
)
def test_eval_mode_takes_fixed_frames(config: dict[str, Any], expected: list[list[int]]) -> None:
    sampler = build_sampler(config)
    assert [taken(sampler, row) for row in range(3)] == expected


def test_sample_all_fills_what_is_left_with_random_real_frames_in_training() -> None:
    sampler = build_sampler({"name": "sample_all", "num_frames": 50}, training=True)
    assert taken(sampler, 1)[:3] == [0, 1, 2]
    assert len(taken(sampler, 1)) == 50
    assert set(taken(sampler, 1)[3:]) == {0, 1, 2}
    assert taken(sampler, 0)[:8] == list(range(8))
    assert taken(sampler, 2) == []


def test_sample_all_takes_the_first_frames_of_a_longer_clip() -> None:
    assert taken(build_sampler({"name": "sample_all", "num_frames": 5}, training=True), 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_each_clip_is_trimmed_by_its_own_length_unless_it_is_too_short(training: bool) -> None:
    sampler = build_sampler({"name": "trimmed", "start": 2, "end": 1}, training=training)
    assert [taken(sampler, row) for row in range(3)] == [[2, 3, 4, 5, 6], [0, 1, 2], []]


def test_trimmed_draws_one_frame_of_each_stratum_in_training() -> None:
    sampler = build_sampler({"name": "trimmed", "start": 1, "end": 1, "num_frames": 4}, training=True)
    drawn = [taken(sampler, 0) for _ in range(100)]  # of the frames 1 to 6, strata of 1, 2, 1 and 2 frames
    assert {tuple(frames) for frames in drawn} == {(1, b, 4, d) for b in (2, 3) for d in (5, 6)}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_frames_of_a_clip_that_is_too_long_are_distinct_and_in_order(training: bool) -> None:
    frames = torch.arange(300.0).reshape(1, 300, 1)
    for length in (181, 199, 259, 300):
        sampled, num_frames = build_sampler({"name": "trimmed"}, training=training)(frames, torch.tensor([length]))
        chosen = sampled[0, :, 0]
        assert num_frames.tolist() == [140]
        assert (chosen.diff() > 0).all()
        assert chosen[0] >= 30 and chosen[-1] < length - 10


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SAMPLERS.names())
def test_a_batch_padded_to_no_frame_stays_so(name: str, training: bool) -> None:
    frames, num_frames = build_sampler({"name": name}, training=training)(
        torch.zeros(2, 0, 1), torch.zeros(2, dtype=torch.int64)
    )
    assert frames.shape == (2, 0, 1)
    assert num_frames.tolist() == [0, 0]
