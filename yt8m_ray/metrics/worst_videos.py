"""The videos that a model is most wrong about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yt8m_ray.metrics.base import Array, RankedBatch

_TOP_K = 20


@dataclass(frozen=True, order=True)
class WorstVideo:
    """One of them; they sort by these values, the worst first."""

    average_precision: float
    """Mean over the labels of the precision at the label's rank, 0 beyond the best 20 classes."""
    doubt: float
    """1 less the best score: of two equally wrong predictions, the surer is worse."""
    video_id: str
    labels: tuple[int, ...]
    """Class ids."""
    class_ids: tuple[int, ...]
    """The best classes, best first, with their `scores`."""
    scores: tuple[float, ...]


class WorstVideos:
    """The `num_kept` labelled videos of lowest average precision, each with `num_classes` labels and predictions."""

    def __init__(self, num_kept: int = 50, num_classes: int = 10) -> None:
        self._num_kept = num_kept
        self._num_classes = num_classes
        self.videos: list[WorstVideo] = []

    def update_ranked(self, batch: RankedBatch, video_ids: Sequence[str]) -> None:
        """Adds the videos of a batch."""
        if not len(batch):
            return
        top = batch.top(_TOP_K)
        # The precision at a label's rank is the number of hits up to it over the rank, and 0 beyond the best classes.
        hits_before = np.cumsum(top.hits, axis=1, dtype=np.float32) * top.hits
        average = hits_before @ (1 / np.arange(1, hits_before.shape[1] + 1)) / np.maximum(batch.num_labels, 1)
        doubt = 1 - top.scores[:, 0].astype(np.float64)
        is_candidate = batch.num_labels > 0
        # Once the list is full, most videos of a batch are no worse than its last one.
        if len(self.videos) == self._num_kept:
            best = self.videos[-1]
            is_tied = (average == best.average_precision) & (doubt <= best.doubt)
            is_candidate &= (average < best.average_precision) | is_tied
        rows = np.flatnonzero(is_candidate)
        ids = np.array([video_ids[row] for row in rows.tolist()], dtype=str)
        rows = rows[np.lexsort((ids, doubt[rows], average[rows]))[: self._num_kept]]
        self._keep(
            [
                WorstVideo(
                    float(average[row]),
                    float(doubt[row]),
                    str(video_ids[row]),
                    tuple(batch.labels_of(row)[: self._num_classes].tolist()),
                    tuple(top.class_ids[row, : self._num_classes].tolist()),
                    tuple(top.scores[row, : self._num_classes].tolist()),
                )
                for row in rows.tolist()
            ]
        )

    def merge(self, other: WorstVideos) -> None:
        """Adds what `other` has seen."""
        self._keep(other.videos)

    def _keep(self, videos: list[WorstVideo]) -> None:
        if videos:
            self.videos = sorted([*self.videos, *videos])[: self._num_kept]

    def arrays(self) -> dict[str, Array]:
        """Returns the videos, worst first.

        video_ids are uint8 [N, L] (UTF-8, padded with 0), average_precision is float32 [N], labels and class_ids are
        int32 [N, num_classes] (padded with -1), scores float32 [N, num_classes].
        """
        shape = (len(self.videos), self._num_classes)
        encoded = [video.video_id.encode() for video in self.videos]
        ids = np.zeros((len(encoded), max(map(len, encoded), default=0)), np.uint8)
        labels, class_ids = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        scores = np.zeros(shape, np.float32)
        for row, video in enumerate(self.videos):
            ids[row, : len(encoded[row])] = np.frombuffer(encoded[row], np.uint8)
            labels[row, : len(video.labels)] = video.labels
            class_ids[row, : len(video.class_ids)] = video.class_ids
            scores[row, : len(video.scores)] = video.scores
        return {
            "video_ids": ids,
            "average_precision": np.array([video.average_precision for video in self.videos], np.float32),
            "labels": labels,
            "class_ids": class_ids,
            "scores": scores,
        }
