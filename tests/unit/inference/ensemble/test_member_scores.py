"""What members say of videos, kept for their best classes alone, against means over all classes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from yt8m_ray.data.video_keys import id_keys
from yt8m_ray.inference.ensemble.member_scores import MemberScores

WEIGHTS = np.array([0.5, 0.3, 0.2])


def gap_by_loops(scores: np.ndarray, labels: np.ndarray) -> float:
    """Global average precision at 20, straight from its definition."""
    pairs = [
        (score[class_id], truth[class_id])
        for score, truth in zip(scores, labels, strict=True)
        for class_id in np.argsort(-score, kind="stable")[:20]
    ]
    num_hits, total = 0, 0.0
    for rank, (_, is_hit) in enumerate(sorted(pairs, key=lambda pair: -pair[0]), start=1):
        num_hits += is_hit
        total += num_hits / rank if is_hit else 0.0
    return total / labels.sum()


def answers(
    num_videos: int, num_classes: int = 300, *, disagreement: float = 0.5, seed: int = 0
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Returns logits of three members that agree in part, and labels that they have a part in."""
    generator = torch.Generator().manual_seed(seed)
    truth = 2 * torch.randn(num_videos, num_classes, generator=generator)
    labels = (truth + torch.randn(truth.shape, generator=generator) > 5).float()
    labels[torch.arange(num_videos), truth.argmax(dim=1)] = 1
    noise = disagreement * torch.randn(3, num_videos, num_classes, generator=generator)
    return [truth + part - 4 for part in noise], labels


def ids(num_videos: int, first: int = 0) -> list[str]:
    return [f"v{index:04d}" for index in range(first, first + num_videos)]


def scores_of(logits: list[torch.Tensor], labels: torch.Tensor, *, top_k: int) -> MemberScores:
    return MemberScores.from_logits(logits, labels, ids(len(labels)), top_k=top_k)


def mean_of(logits: list[torch.Tensor], weights: np.ndarray = WEIGHTS) -> np.ndarray:
    parts = [torch.sigmoid(part).double().numpy() for part in logits]
    return sum(weight * part for weight, part in zip(weights, parts, strict=True)).astype(np.float32)


def arrays_of(scores: MemberScores) -> dict[str, list[object]]:
    return {name: getattr(scores, name).tolist() for name in MemberScores.__dataclass_fields__}


def test_with_all_classes_gap_is_that_of_the_mean() -> None:
    logits, labels = answers(40)

    scores = scores_of(logits, labels, top_k=1000)

    assert scores.num_certain(WEIGHTS) == 40
    assert scores.gap(WEIGHTS) == pytest.approx(gap_by_loops(mean_of(logits), labels.numpy()), abs=1e-6)


def test_with_the_best_classes_gap_is_that_of_the_mean_where_it_is_certain() -> None:
    logits, labels = answers(40)

    scores = scores_of(logits, labels, top_k=60)

    assert scores.num_pairs.max() < 120  # of 300
    assert scores.num_certain(WEIGHTS) == 40
    assert scores.gap(WEIGHTS) == pytest.approx(gap_by_loops(mean_of(logits), labels.numpy()), abs=1e-6)


@pytest.mark.parametrize("top_k", [25, 30])
def test_a_video_that_counts_as_certain_has_the_best_classes_of_the_mean(top_k: int) -> None:
    logits, labels = answers(100, disagreement=2.0)
    mean, num_certain, num_right = mean_of(logits), 0, 0
    for row in range(100):
        alone = MemberScores.from_logits([part[[row]] for part in logits], labels[[row]], ids(1), top_k=top_k)
        is_right = set(np.argsort(-mean[row], kind="stable")[:20]) <= set(alone.class_ids.tolist())
        assert is_right or not alone.num_certain(WEIGHTS)
        num_certain += alone.num_certain(WEIGHTS)
        num_right += is_right

    assert 0 < num_certain < num_right  # the test says something, and the bound is on the safe side
    assert scores_of(logits, labels, top_k=top_k).num_certain(WEIGHTS) == num_certain


def test_what_all_members_rank_21st_may_be_the_best_class_of_the_mean_and_is_no_certain_video() -> None:
    logits = torch.full((3, 1, 100), -9.0)
    for member in range(3):
        logits[member, 0, 20 * member : 20 * member + 20] = 1.0  # each has favourites of its own
    logits[:, 0, 99] = 0.9

    scores = scores_of(list(logits), torch.zeros(1, 100), top_k=20)

    assert np.argmax(mean_of(list(logits))[0]) == 99
    assert 99 not in scores.class_ids
    assert scores.num_certain(WEIGHTS) == 0


def test_the_probabilities_are_those_of_every_member_for_the_best_classes_of_any() -> None:
    logits, labels = answers(3, num_classes=50)

    scores = scores_of(logits, labels, top_k=20)

    first = 0
    for row, num_pairs in enumerate(scores.num_pairs.tolist()):
        best = {class_id for part in logits for class_id in part[row].argsort(descending=True)[:20].tolist()}
        pairs = slice(first, first + num_pairs)
        assert scores.class_ids[pairs].tolist() == sorted(best)
        expected = torch.stack([torch.sigmoid(part[row, sorted(best)]) for part in logits], dim=1)
        assert torch.allclose(torch.from_numpy(scores.scores[pairs]), expected, rtol=1e-6)
        assert scores.hits[pairs].tolist() == (labels[row, sorted(best)] > 0).tolist()
        first += num_pairs
    assert scores.num_labels.tolist() == labels.sum(dim=1).tolist()


def test_parts_joined_are_the_whole_also_after_a_journey() -> None:
    logits, labels = answers(50)
    parts = [
        MemberScores.from_logits([part[rows] for part in logits], labels[rows], ids(50)[rows], top_k=25)
        for rows in (slice(0, 7), slice(7, 7), slice(7, 50))
    ]

    joined = MemberScores.concatenate([pickle.loads(pickle.dumps(part)) for part in parts])

    assert arrays_of(joined) == arrays_of(scores_of(logits, labels, top_k=25))
    assert len(joined) == 50


def test_chosen_videos_are_as_if_there_had_been_no_others() -> None:
    logits, labels = answers(30)
    is_chosen = np.arange(30) % 3 == 1

    chosen = scores_of(logits, labels, top_k=20).select(is_chosen)

    alone = MemberScores.from_logits(
        [part[is_chosen] for part in logits], labels[is_chosen], np.array(ids(30))[is_chosen].tolist(), top_k=20
    )
    assert arrays_of(chosen) == arrays_of(alone)


def test_scores_come_out_of_another_process_as_they_were() -> None:
    scores = scores_of(*answers(10), top_k=20)

    loaded = pickle.loads(pickle.dumps(scores))

    assert arrays_of(loaded) == arrays_of(scores)
    assert loaded.scores.dtype == np.float32 and loaded.hits.dtype == np.bool_


def test_of_equal_means_at_the_cut_the_lower_class_ids_count() -> None:
    logits = [torch.zeros(1, 25), torch.zeros(1, 25)]
    for label, expected in ((19, True), (20, False)):
        labels = torch.zeros(1, 25)
        labels[0, label] = 1
        scores = scores_of(logits, labels, top_k=25)
        assert (scores.gap(np.array([0.5, 0.5])) > 0) == expected


def test_a_member_that_answers_nan_is_named_with_the_video() -> None:
    logits, labels = answers(5)
    logits[1][3, 7] = torch.nan

    with pytest.raises(ValueError, match="the model's scores of video 'v0003' are NaN"):
        scores_of(logits, labels, top_k=20)


def test_labels_outside_the_union_count_in_the_denominator() -> None:
    logits = [torch.linspace(5, -5, 100)[None]]
    labels = torch.zeros(1, 100)
    labels[0, [0, 90]] = 1

    assert scores_of(logits, labels, top_k=20).gap(np.ones(1)) == 0.5


def test_the_ids_are_kept_as_keys() -> None:
    logits, labels = answers(4)

    assert scores_of(logits, labels, top_k=20).video_keys.tolist() == id_keys(ids(4)).tolist()
