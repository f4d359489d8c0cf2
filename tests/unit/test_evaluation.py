"""What can be scored, and what is said where it cannot."""

from __future__ import annotations

import pytest
import torch

from yt8m_ray.evaluation import Evaluation, evaluate
from yt8m_ray.schema import Batch
from yt8m_ray.topk import NaNScoresError

NUM_CLASSES = 5


class Sum(torch.nn.Module):
    """A model whose logits are all the sum of a video's features."""

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return frames.sum(dim=(1, 2))[:, None].expand(-1, NUM_CLASSES)


def batch_of(features: list[list[float]], labels: list[list[int]]) -> Batch:
    multi_hot = torch.zeros(len(labels), NUM_CLASSES)
    for row, class_ids in enumerate(labels):
        multi_hot[row, class_ids] = 1
    frames = torch.tensor(features)[:, None]
    ids = tuple(f"v{row}" for row in range(len(labels)))
    return Batch(frames, torch.ones(len(labels), dtype=torch.int64), multi_hot, ids)


def evaluation_of(batch: Batch) -> Evaluation:
    return evaluate(Sum(), [batch], torch.nn.BCEWithLogitsLoss())


def test_no_video_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match=r"data\.test: the shards hold no video"):
        Evaluation().check_scorable("data.test")


def test_videos_that_are_all_of_no_class_cannot_be_scored() -> None:
    evaluation = evaluation_of(batch_of([[1.0, 2.0], [0.0, 1.0]], [[], []]))

    with pytest.raises(ValueError, match=r"data\.test: none of its 2 videos has a label; nothing can be scored"):
        evaluation.check_scorable("data.test")


def test_one_label_among_videos_of_no_class_can_be_scored() -> None:
    evaluation = evaluation_of(batch_of([[1.0, 2.0], [0.0, 1.0]], [[], [0]]))

    evaluation.check_scorable("data.test")
    assert (evaluation.compute()["num_videos"], evaluation.compute()["hit_at_1"]) == (2, 0.5)


def test_a_video_whose_scores_are_nan_is_named() -> None:
    with pytest.raises(NaNScoresError, match="the model's scores of video 'v1' are NaN"):
        evaluation_of(batch_of([[1.0, 2.0], [torch.inf, -torch.inf]], [[1], [0]]))
