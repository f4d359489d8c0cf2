"""What a prediction is, offline and online: the k best classes of each video with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from yt8m_ray.errors import YT8MError


@dataclass(frozen=True)
class TopK:
    """Predictions of B videos, best first; equal scores are ordered by class id."""

    class_ids: torch.Tensor  # int64 [B, k]
    scores: torch.Tensor  # float32 [B, k], probabilities


class NaNScoresError(YT8MError, ValueError):
    """A model's scores of some videos are NaN, as features that are finite and enormous make them."""

    def __init__(self, rows: Sequence[int], video_ids: Sequence[str]) -> None:
        # Pickle builds an exception from its arguments.
        super().__init__(rows, video_ids)
        self.rows, self.video_ids = list(rows), list(video_ids)

    def __str__(self) -> str:
        more = f" and of {len(self.rows) - 1} other videos" if len(self.rows) > 1 else ""
        return f"the model's scores of video {self.video_ids[0]!r}{more} are NaN"


def check_scores(logits: torch.Tensor, video_ids: Sequence[str]) -> None:
    """Checks that scores can be made of `logits` [B, C]; infinite ones are scores of 0 and 1.

    NaNScoresError names the videos whose logits are not numbers.
    """
    # One pass over the batch, and a second where the sum of infinities of both signs is NaN too.
    if not logits.sum(dim=1).isnan().any():
        return
    rows = logits.isnan().any(dim=1).nonzero()[:, 0].tolist()
    if rows:
        raise NaNScoresError(rows, [video_ids[row] for row in rows])


def top_k(logits: torch.Tensor, k: int) -> TopK:
    """Returns the k most probable classes of each row of `logits` [B, C], k clipped to C.

    The result depends on the values alone: among equal scores the lower class id comes first, whatever the batch.
    """
    if k < 1:
        raise ValueError(f"top_k: k must be at least 1, found {k}")
    scores = torch.sigmoid(logits.float())
    k = min(k, scores.shape[1])
    values, class_ids = torch.topk(scores, k, dim=1)
    # torch.topk breaks ties arbitrarily: rows where a tie crosses the cut are selected again by a stable sort.
    crossing = (scores >= values[:, -1:]).sum(dim=1) > k
    if crossing.any():
        stable_values, stable_ids = torch.sort(scores[crossing], dim=1, descending=True, stable=True)
        values[crossing], class_ids[crossing] = stable_values[:, :k], stable_ids[:, :k]
    # By score, and among equal scores by id: two stable sorts, the last key first.
    by_id = torch.argsort(class_ids, dim=1, stable=True)
    values, class_ids = values.gather(1, by_id), class_ids.gather(1, by_id)
    by_score = torch.argsort(values, dim=1, descending=True, stable=True)
    return TopK(class_ids=class_ids.gather(1, by_score), scores=values.gather(1, by_score))
