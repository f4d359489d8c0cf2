"""The best classes of a video, against sorting in Python."""

from __future__ import annotations

import pickle

import pytest
import torch

from yt8m_ray.topk import NaNScoresError, check_scores, top_k


def sorted_class_ids(logits: torch.Tensor, k: int) -> list[list[int]]:
    scores = torch.sigmoid(logits).tolist()
    return [sorted(range(len(row)), key=lambda class_id: (-row[class_id], class_id))[:k] for row in scores]


def test_classes_come_best_first_with_their_probabilities() -> None:
    prediction = top_k(torch.tensor([[0.0, 3.0, -1.0, 1.0]]), 3)
    assert prediction.class_ids.tolist() == [[1, 3, 0]]
    torch.testing.assert_close(prediction.scores, torch.sigmoid(torch.tensor([[3.0, 1.0, 0.0]])))


@pytest.mark.parametrize("k", [1, 5, 20, 40])
def test_equal_scores_come_in_the_order_of_class_ids(k: int) -> None:
    logits = torch.randint(-2, 3, (30, 40), generator=torch.Generator().manual_seed(k)).float()
    assert top_k(logits, k).class_ids.tolist() == sorted_class_ids(logits, k)


def test_logits_that_differ_only_beyond_float32_probabilities_are_equal_scores() -> None:
    assert top_k(torch.tensor([[50.0, 60.0]]), 2).class_ids.tolist() == [[0, 1]]


def test_a_prediction_does_not_depend_on_the_batch() -> None:
    logits = torch.randint(-3, 4, (12, 50), generator=torch.Generator().manual_seed(0)).float()
    together = top_k(logits, 7)
    for row in range(len(logits)):
        alone = top_k(logits[row : row + 1], 7)
        assert torch.equal(alone.class_ids[0], together.class_ids[row])
        assert torch.equal(alone.scores[0], together.scores[row])


def test_more_classes_than_there_are_gives_them_all() -> None:
    assert top_k(torch.zeros(2, 3), 20).class_ids.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_a_batch_without_videos_has_no_predictions() -> None:
    assert top_k(torch.zeros(0, 30), 20).class_ids.shape == (0, 20)


def test_half_precision_logits_are_scored_in_float32() -> None:
    assert top_k(torch.zeros(1, 3, dtype=torch.bfloat16), 1).scores.dtype == torch.float32


def test_scores_that_are_not_numbers_are_refused_with_their_videos() -> None:
    logits = torch.zeros(4, 30)
    logits[1, 7] = logits[3] = torch.nan

    with pytest.raises(NaNScoresError) as caught:
        check_scores(logits, ["a", "b", "c", "d"])

    assert (caught.value.rows, caught.value.video_ids) == ([1, 3], ["b", "d"])
    assert str(caught.value) == "the model's scores of video 'b' and of 1 other videos are NaN"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinite_logits_are_scores_of_zero_and_one(dtype: torch.dtype) -> None:
    logits = torch.tensor([[torch.inf, -torch.inf, 0.0], [3e38, 3e38, 3e38]], dtype=dtype)

    check_scores(logits, ["a", "b"])
    check_scores(logits[:0], [])

    assert top_k(logits, 3).scores[0].tolist() == [1.0, 0.5, 0.0]


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        top_k(torch.zeros(1, 3), 0)
