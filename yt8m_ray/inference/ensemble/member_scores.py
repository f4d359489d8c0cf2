"""What each member of an ensemble says of held-out videos, compact enough to measure any weighting of it in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from yt8m_ray.compiled import compiled
from yt8m_ray.data.video_keys import id_keys
from yt8m_ray.metrics.average_precision import precision_sums
from yt8m_ray.topk import check_scores
from yt8m_ray.topk import top_k as best_classes

Array = npt.NDArray[Any]

# Best classes of a video that GAP counts.
DEPTH = 20
# Below any probability: no class is outside the union.
_UNBOUNDED = np.float32(-1)


@dataclass(frozen=True)
class MemberScores:
    """Probabilities of M members for N videos, of P pairs of a video and a class, video by video; picklable.

    The classes of a video are the union of the members' own best k. A class takes 4 M + 5 bytes: some 2 kB a video for
    five members and 80 classes, where all 3,862 would take 77 kB.
    """

    # uint64 [N, 2], the videos' ids as `id_keys` gives them.
    video_keys: Array
    # int32 [N], all labels, also those outside the union.
    num_labels: Array
    # int32 [N], classes that are kept of each video; their sum is P.
    num_pairs: Array
    # int32 [P], ascending within a video.
    class_ids: Array
    # bool [P], whether the class is a label.
    hits: Array
    # float32 [P, M].
    scores: Array
    # float32 [N, M], what a member gives at most to a class that is not kept; -1 where all are.
    bounds: Array

    @classmethod
    def from_logits(
        cls, member_logits: Sequence[torch.Tensor], labels: torch.Tensor, video_ids: Sequence[str], *, top_k: int
    ) -> Self:
        """Returns what the members say of a batch: their logits [B, C] each, multi-hot labels [B, C].

        Each member adds its `top_k` best classes to the union; more than there are keeps all.

        Raises:
            NaNScoresError: a member's scores of a video are not numbers.
        """
        for logits in member_logits:
            check_scores(logits, video_ids)
        best = [best_classes(logits, top_k) for logits in member_logits]
        is_kept = torch.zeros_like(labels, dtype=torch.bool)
        for found in best:
            is_kept.scatter_(1, found.class_ids, True)
        bounds = torch.stack([found.scores[:, -1] for found in best], dim=1).cpu().numpy()
        scores = torch.stack([torch.sigmoid(logits.float())[is_kept] for logits in member_logits], dim=1)
        num_pairs = is_kept.sum(dim=1).cpu().numpy()
        return cls(
            video_keys=id_keys(video_ids),
            num_labels=(labels > 0).sum(dim=1).cpu().numpy().astype(np.int32),
            num_pairs=num_pairs.astype(np.int32),
            class_ids=is_kept.nonzero()[:, 1].cpu().numpy().astype(np.int32),
            hits=(labels[is_kept] > 0).cpu().numpy(),
            scores=scores.cpu().numpy(),
            bounds=np.where((num_pairs == labels.shape[1])[:, None], _UNBOUNDED, bounds),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[MemberScores]) -> Self:
        """Returns the videos of all parts, of which there is at least one, in order."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def __len__(self) -> int:
        return len(self.video_keys)

    @property
    def num_members(self) -> int:
        """M."""
        return int(self.scores.shape[1])

    def select(self, is_chosen: Array) -> MemberScores:
        """Returns the videos where a mask, bool [N], is set."""
        pairs = np.repeat(is_chosen, self.num_pairs)
        names = [field.name for field in dataclasses.fields(self)]
        masks = {name: pairs if name in ("class_ids", "hits", "scores") else is_chosen for name in names}
        return MemberScores(**{name: getattr(self, name)[mask] for name, mask in masks.items()})

    def best_pairs(self, weights: Array) -> tuple[Array, Array]:
        """Returns (means, hits) of each video's best 20 classes by the weighted mean, float32 and bool [up to 20 N].

        Of equal means the lower class id is the better one, as everywhere. `weights` are shares [M] of the sum 1.
        """
        return self._ranked(weights)[:2]

    def gap(self, weights: Array) -> float:
        """Returns GAP@20 of the weighted mean; 0 where no video has a label."""
        return pooled_gap([self.best_pairs(weights)], int(self.num_labels.sum()))

    def num_certain(self, weights: Array) -> int:
        """Returns of how many videos the mean's best 20 of all classes are certainly those in the union."""
        # A class outside the union has from member m at most b_m, the probability of m's own k-th best class, and so a
        # mean of at most sum_m w_m b_m; the 20th best mean in the union has to exceed it. That k is 20 or more does not
        # suffice: what all members rank 21st may have the best mean, where each prefers others.
        last = self._ranked(weights)[2]
        most = (self.bounds.astype(np.float64) @ np.asarray(weights, np.float64)).astype(np.float32)
        return int(np.count_nonzero(last > most))

    def _ranked(self, weights: Array) -> tuple[Array, Array, Array]:
        """Returns (means, hits) as `best_pairs`, and the last of the means of each video, float32 [N]."""
        most = DEPTH * len(self)
        means, hits, last = np.empty(most, np.float32), np.empty(most, np.bool_), np.empty(len(self), np.float32)
        shares = np.asarray(weights, np.float64)
        num_ranked = _rank(self.scores, self.hits, self.num_pairs, shares, means, hits, last)
        return means[:num_ranked], hits[:num_ranked], last


def pooled_gap(ranked: Sequence[tuple[Array, Array]], num_labels: int) -> float:
    """Returns GAP of several parts' `best_pairs` in one ranking; `num_labels` are those of all their videos."""
    sums = precision_sums([means for means, _ in ranked], [hits for _, hits in ranked], class_ids=None, num_classes=1)
    return float(sums[0]) / max(num_labels, 1)


@compiled
def _rank(
    scores: Array, hits: Array, num_pairs: Array, weights: Array, best_means: Array, best_hits: Array, last_means: Array
) -> int:
    """Fills in each video's best weighted means, best first, their hits, and the last mean; returns how many means."""
    num_ranked, end = 0, 0
    for video in range(len(num_pairs)):
        num_kept, start = 0, end
        end += num_pairs[video]
        for pair in range(start, end):
            exact = 0.0
            for member in range(len(weights)):
                exact += weights[member] * scores[pair, member]
            mean = np.float32(exact)
            place = num_ranked + min(num_kept, DEPTH - 1)
            if num_kept == DEPTH and mean <= best_means[place]:
                continue
            num_kept = min(num_kept + 1, DEPTH)
            # Class ids ascend: a pair that goes behind its equals leaves them in their order.
            while place > num_ranked and best_means[place - 1] < mean:
                best_means[place] = best_means[place - 1]
                best_hits[place] = best_hits[place - 1]
                place -= 1
            best_means[place] = mean
            best_hits[place] = hits[pair]
        num_ranked += num_kept
        last_means[video] = best_means[num_ranked - 1]
    return num_ranked
