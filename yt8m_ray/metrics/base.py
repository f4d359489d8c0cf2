"""The contract of a metric, the batch that metrics share, and the registry that builds one by name.

Lives here: what every metric promises and the selection of each video's best classes. Does not live here: any metric
(one file each) or the loss.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from yt8m_ray.registry import Registry

Array = npt.NDArray[Any]

Values = npt.ArrayLike | torch.Tensor
"""NumPy, torch or nested lists."""

SHARED_DEPTH = 32
"""Classes a video that are selected at once: enough for GAP@20 and for PERR of nearly every video, so that all metrics
of a batch share one selection."""


@dataclass(frozen=True)
class TopPairs:
    """The k best classes of each video: equal scores in the order of class ids, whatever the batch.

    Attributes:
        scores: [B, k], descending.
        class_ids: int64 [B, k].
        hits: bool [B, k], whether the video has the label.
    """

    scores: Array
    class_ids: Array
    hits: Array


class RankedBatch:
    """Scores and labels of B videos, with what several metrics want to know about them computed once.

    Args:
        scores: [B, C] probabilities.
        labels: [B, C] multi-hot, of any type of number; everything above 0 is a label.

    Raises:
        ValueError: the shapes differ or are not [B, C], or a score is NaN.

    Attributes:
        scores: float32 or float64 [B, C].
        labels: bool [B, C].
        num_labels: int64 [B].
        class_counts: int64 [C], videos of the batch that have each label.
        best_classes: int64 [B], the most probable class; of equal scores the lower class id.
    """

    def __init__(self, scores: Values, labels: Values) -> None:
        self.scores, self.labels = _float_array(scores), _label_array(labels)
        if self.scores.ndim != 2 or self.scores.shape != self.labels.shape or self.scores.shape[1] == 0:
            raise ValueError(
                f"metrics need scores and labels of one shape [videos, classes], found {self.scores.shape} and "
                f"{self.labels.shape}"
            )
        num_videos, num_classes = self.scores.shape
        rows, class_ids = np.divmod(np.flatnonzero(self.labels), num_classes)
        self.num_labels = np.bincount(rows, minlength=num_videos)
        self.class_counts = np.bincount(class_ids, minlength=num_classes)
        self.best_classes = self.scores.argmax(axis=1)
        best = self.scores[np.arange(num_videos), self.best_classes]
        if np.isnan(best).any():  # argmax stops at a NaN: one value a video tells
            raise ValueError(f"metrics need scores that are numbers, found NaN in row {int(np.isnan(best).argmax())}")
        self._top: TopPairs | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def top(self, k: int) -> TopPairs:
        """Returns the k best classes of each video, k clipped to C."""
        k = min(k, self.scores.shape[1])
        if self._top is None or self._top.scores.shape[1] < k:
            self._top = self._select(min(max(k, SHARED_DEPTH), self.scores.shape[1]))
        top = self._top
        return TopPairs(top.scores[:, :k], top.class_ids[:, :k], top.hits[:, :k])

    def _select(self, k: int) -> TopPairs:
        num_videos, num_classes = self.scores.shape
        threshold = np.partition(self.scores, num_classes - k, axis=1)[:, num_classes - k : num_classes - k + 1]
        selected = self.scores >= threshold
        if np.count_nonzero(selected) > num_videos * k:
            _keep_first_ties(selected, self.scores, threshold, k)
        class_ids = (np.flatnonzero(selected) % num_classes).reshape(num_videos, k)
        # Class ids ascend here, so that a stable sort leaves equal scores in their order.
        order = np.argsort(-np.take_along_axis(self.scores, class_ids, axis=1), axis=1, kind="stable")
        class_ids = np.take_along_axis(class_ids, order, axis=1)
        return TopPairs(
            np.take_along_axis(self.scores, class_ids, axis=1),
            class_ids,
            np.take_along_axis(self.labels, class_ids, axis=1),
        )


def _keep_first_ties(selected: Array, scores: Array, threshold: Array, k: int) -> None:
    """Drops from `selected` what ties at the threshold bring beyond k classes a row, the higher class ids."""
    rows = np.flatnonzero(np.count_nonzero(selected, axis=1) > k)
    above = scores[rows] > threshold[rows]
    equal = scores[rows] == threshold[rows]
    room = k - np.count_nonzero(above, axis=1, keepdims=True)
    selected[rows] = above | (equal & (np.cumsum(equal, axis=1) <= room))


def _float_array(scores: Values) -> Array:
    if isinstance(scores, torch.Tensor):
        # NumPy has no bfloat16; float32 holds every half-precision value exactly.
        is_half = scores.dtype in (torch.bfloat16, torch.float16)
        scores = (scores.float() if is_half else scores).detach().cpu().numpy()
    array = np.asarray(scores)
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)


def _label_array(labels: Values) -> Array:
    array = (labels > 0).cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    return array if array.dtype == np.bool_ else np.asarray(array > 0)


class Metric(abc.ABC):
    """A number about scored videos, exact however the videos are split into batches and over workers.

    State is plain NumPy arrays and numbers, to be pickled, sent and merged. `compute` is NaN before any video.
    """

    def update(self, scores: Values, labels: Values) -> None:
        """Adds the videos of a batch: `scores` [B, C] probabilities, `labels` [B, C] multi-hot; B = 0 is legal."""
        self.update_ranked(RankedBatch(scores, labels))

    @abc.abstractmethod
    def update_ranked(self, batch: RankedBatch) -> None:
        """Adds the videos of a batch that other metrics read too; see `update_all`."""

    @abc.abstractmethod
    def merge(self, other: Self) -> None:
        """Adds every video that `other` has seen, as if this metric had seen it."""

    @abc.abstractmethod
    def compute(self) -> float:
        """Returns the metric over every video seen so far."""


METRICS: Registry[Metric] = Registry("metric")


def build_metric(name: str, **options: Any) -> Metric:
    """Returns the metric `name` without videos; ValueError where the name or an option is invalid."""
    return METRICS.build({"name": name, **options})


def update_all(metrics: Iterable[Metric], scores: Values, labels: Values) -> None:
    """Adds a batch to several metrics, which share the selection of its best classes, most of their time."""
    batch = RankedBatch(scores, labels)
    for metric in metrics:
        metric.update_ranked(batch)
