"""Shares of members, against conditions of optimality and grids; and what cross-fitting says of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.unit.inference.ensemble.test_member_scores import answers, gap_by_loops, ids, mean_of, scores_of
from yt8m_ray.data.video_keys import id_keys
from yt8m_ray.inference.ensemble.member_scores import MemberScores
from yt8m_ray.inference.ensemble.weights import (
    ascend,
    cross_fitted_gap,
    equal_shares,
    folds_of,
    least_squares_shares,
    moments,
)

ALL = range(3)


def flat(scores: np.ndarray, hits: np.ndarray) -> MemberScores:
    """Returns pairs [P, M] as scores of videos of ten pairs each."""
    num_videos = len(hits) // 10
    return MemberScores(
        video_keys=id_keys(ids(num_videos)),
        num_labels=hits.reshape(-1, 10).sum(axis=1).astype(np.int32),
        num_pairs=np.full(num_videos, 10, np.int32),
        class_ids=np.tile(np.arange(10, dtype=np.int32), num_videos),
        hits=hits,
        scores=scores.astype(np.float32),
        bounds=np.full((num_videos, scores.shape[1]), -1, np.float32),
    )


def unequal_members(num_videos: int = 60, seed: int = 0) -> MemberScores:
    """Returns three members of which the first is best, the second adds to it and the third guesses."""
    logits, labels = answers(num_videos, num_classes=60, seed=seed)
    generator = torch.Generator().manual_seed(100 + seed)
    noise = torch.randn(3, *labels.shape, generator=generator)
    return scores_of([logits[0] + noise[0], logits[1] + 1.5 * noise[1], 3 * noise[2] - 4], labels, top_k=20)


def test_the_triangle_knows_the_distance_of_every_mean_from_the_labels() -> None:
    rng = np.random.default_rng(1)
    num_pairs = 300_000  # more than are taken at once
    scores = flat(rng.random((num_pairs, 3)), rng.random(num_pairs) < 0.2)

    triangle = moments(scores)

    for shares in rng.random((4, 3)):
        expected = np.linalg.norm(scores.scores.astype(float) @ shares - scores.hits)
        assert np.linalg.norm(triangle[:, :3] @ shares - triangle[:, 3]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_least_squares_are_optimal_among_shares_that_are_not_negative(seed: int) -> None:
    scores = unequal_members(seed=seed)

    shares = least_squares_shares(moments(scores), ALL)

    # Scaled back to the solution, no direction that is allowed goes down (Karush, Kuhn, Tucker).
    table, target = scores.scores.astype(float), scores.hits.astype(float)
    mean = table @ shares
    gradient = table.T @ (mean * (mean @ target) / (mean @ mean) - target)
    slack = 1e-4 * np.abs(table.T @ target)
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    assert (gradient >= -slack).all()
    assert (np.abs(gradient[shares > 0]) <= slack[shares > 0]).all()


def test_a_member_that_only_harms_has_no_share() -> None:
    rng = np.random.default_rng(2)
    hits = rng.random(5000) < 0.3
    good = np.clip(0.8 * hits + 0.1 * rng.random(5000), 0, 1)
    scores = flat(np.stack([good, 1 - good], axis=1), hits)

    assert least_squares_shares(moments(scores), [0, 1]).tolist() == [1, 0]


def test_members_that_say_the_same_share_alike() -> None:
    logits, labels = answers(30)
    scores = scores_of([logits[0], logits[1], logits[0]], labels, top_k=30)

    shares = least_squares_shares(moments(scores), ALL)

    assert shares[0] == pytest.approx(shares[2], rel=1e-6)


def test_members_that_are_not_asked_have_no_share() -> None:
    scores = unequal_members()

    assert least_squares_shares(moments(scores), [1, 2])[0] == 0
    assert equal_shares([0, 2], 3).tolist() == [0.5, 0, 0.5]
    assert ascend(scores, equal_shares([0, 1], 3), [0, 1])[0][2] == 0


def test_where_no_member_gives_anything_to_a_label_all_share_alike() -> None:
    scores = flat(np.random.default_rng(0).random((100, 3)), np.zeros(100, bool))

    assert least_squares_shares(moments(scores), [0, 2]).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("seed", range(3))
def test_an_ascent_never_ends_below_its_start(seed: int) -> None:
    scores = unequal_members(seed=seed)
    starts = [*np.eye(3), equal_shares(ALL, 3), np.random.default_rng(seed).dirichlet(np.ones(3))]

    for start in starts:
        shares, gap = ascend(scores, start, ALL)
        assert gap >= scores.gap(start)
        assert gap == scores.gap(shares)
        assert shares.sum() == pytest.approx(1) and (shares >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_an_ascent_comes_as_high_as_a_grid_over_all_shares(seed: int) -> None:
    scores = unequal_members(seed=seed)
    steps = range(21)
    grid = [
        np.array([one, two, 20 - one - two]) / 20 for one, two in itertools.product(steps, steps) if one + two <= 20
    ]

    found = ascend(scores, equal_shares(ALL, 3), ALL)[1]

    assert found >= max(map(scores.gap, grid)) - 0.002
    assert found > scores.gap(equal_shares(ALL, 3)) + 0.01  # there was something to find


def test_the_same_scores_give_the_same_shares() -> None:
    first, second = (ascend(unequal_members(), equal_shares(ALL, 3), ALL)[0] for _ in range(2))

    assert first.tolist() == second.tolist()


def test_the_cross_fitted_gap_is_that_of_means_whose_weights_saw_other_folds() -> None:
    logits, labels = answers(50, disagreement=2.0)
    scores = scores_of(logits, labels, top_k=300)
    fold_of = folds_of(scores.video_keys, 4)

    def fit(part: MemberScores) -> np.ndarray:
        return least_squares_shares(moments(part), ALL)

    means = np.empty(labels.shape, np.float32)
    for fold in range(4):
        rest = torch.from_numpy(fold_of != fold)
        seen = [ids(50)[row] for row in rest.nonzero()[:, 0].tolist()]
        shares = fit(MemberScores.from_logits([part[rest] for part in logits], labels[rest], seen, top_k=300))
        means[~rest.numpy()] = mean_of([part[~rest] for part in logits], shares)
    expected = gap_by_loops(means, labels.numpy())

    assert cross_fitted_gap(scores, fit, 4) == pytest.approx(expected, abs=1e-6)


def test_what_members_that_guess_gain_in_sample_is_mostly_gone_when_cross_fitted() -> None:
    members, start = range(8), equal_shares(range(8), 8)
    in_sample, honest = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.rand(60, 40, generator=generator) < 0.1).float()
        scores = scores_of(list(torch.randn(8, 60, 40, generator=generator)), labels, top_k=40)
        in_sample.append(ascend(scores, start, members)[1] - scores.gap(start))
        honest.append(cross_fitted_gap(scores, lambda part: ascend(part, start, members)[0], 5) - scores.gap(start))

    assert np.mean(in_sample) > 0.02
    assert np.mean(honest) < np.mean(in_sample) / 4


def test_the_fold_of_a_video_depends_on_its_id_alone() -> None:
    names = ids(200)
    order = np.random.default_rng(0).permutation(200)

    folds = folds_of(id_keys(names), 5)

    assert folds_of(id_keys([names[index] for index in order]), 5).tolist() == folds[order].tolist()


@pytest.mark.parametrize(
    "names", [ids(5000), [f"{index:04x}" for index in range(5000)], ["x" * 20 + n for n in ids(5000)]]
)
def test_folds_are_about_equal_whatever_ids_look_like(names: list[str]) -> None:
    counts = np.bincount(folds_of(id_keys(names), 5), minlength=5)

    assert counts.sum() == 5000
    assert np.abs(counts - 1000).max() < 120  # four standard deviations


def test_a_share_that_cannot_be_measured_is_none() -> None:
    rng = np.random.default_rng(2)
    hits = rng.random(5000) < 0.3
    scores = flat(np.stack([0.9 * hits, 1e-5 + 1e-4 * rng.random(5000) + 0.0004 * hits], axis=1), hits)

    shares = least_squares_shares(moments(scores), [0, 1])

    assert all(share == 0 or share >= 1e-3 for share in shares)
