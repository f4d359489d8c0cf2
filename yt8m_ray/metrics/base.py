"""The contract of a metric, the batch that metrics share, and the registry that builds one by name."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from yt8m_ray.metrics.selection import MAX_SELECTED, find_hits, find_labels, select_best
from yt8m_ray.registry import Registry

Array = npt.NDArray[Any]

Values = npt.ArrayLike | torch.Tensor  # NumPy, torch or nested lists

# Fewest classes a video that are selected, so that GAP@20 and the other metrics share one selection.
SHARED_DEPTH = 20


@dataclass(frozen=True)
class TopPairs:
    """The k best classes of each video: equal scores in the order of class ids, whatever the batch."""

    scores: Array
    """[B, k], descending."""
    class_ids: Array
    """[B, k], uint16 where that holds every class id, else int32."""
    hits: Array
    """bool [B, k], whether the video has the label."""


class RankedBatch:
    """Scores and labels of B videos, with what several metrics need of them computed once.

    `num_labels` are int64 [B], `class_counts`, the videos of the batch that have each label, int64 [C].

    Args:
        scores: [B, C] probabilities.
        labels: [B, C] multi-hot, of any type of number; everything above 0 is a label.

    Raises:
        ValueError: the shapes differ or are not [B, C], or a score is NaN.
    """

    def __init__(self, scores: Values, labels: Values) -> None:
        self.scores, truth = _float_array(scores), _label_array(labels)
        if self.scores.ndim != 2 or self.scores.shape != truth.shape or self.scores.shape[1] == 0:
            raise ValueError(
                f"metrics need scores and labels of one shape [videos, classes], found {self.scores.shape} and "
                f"{truth.shape}"
            )
        num_videos, num_classes = self.scores.shape
        self.class_counts = np.zeros(num_classes, dtype=np.int64)
        self._label_ends = np.empty(num_videos, dtype=np.int64)
        self._label_ids = find_labels(truth, self._label_ends, self.class_counts)
        self.num_labels = np.diff(self._label_ends, prepend=0)
        depth = max(SHARED_DEPTH, int(self.num_labels.max(initial=0)))
        self._top = self._select(min(depth, num_classes, MAX_SELECTED))

    def __len__(self) -> int:
        return len(self.scores)

    def labels_of(self, row: int) -> Array:
        """Returns the class ids of a video's labels, int32."""
        return self._label_ids[self._label_ends[row] - self.num_labels[row] : self._label_ends[row]]

    def top(self, k: int) -> TopPairs:
        """Returns the k best classes of each video, k clipped to C."""
        k = min(k, self.scores.shape[1])
        if self._top.scores.shape[1] < k:
            self._top = self._select(k)
        top = self._top
        return TopPairs(top.scores[:, :k], top.class_ids[:, :k], top.hits[:, :k])

    def _select(self, k: int) -> TopPairs:
        num_videos, num_classes = self.scores.shape
        id_type = np.uint16 if num_classes <= 1 << 16 else np.int32
        best_scores = np.empty((num_videos, k), dtype=self.scores.dtype)
        class_ids = np.empty((num_videos, k), dtype=id_type)
        if k > MAX_SELECTED:
            # The bound of `select_best` keeps too many candidates here. A stable sort leaves ties in the order of ids.
            class_ids[:] = np.argsort(-self.scores, axis=1, kind="stable")[:, :k]
            best_scores[:] = np.take_along_axis(self.scores, class_ids.astype(np.int64), axis=1)
        else:
            nan_row = select_best(self.scores, best_scores, class_ids)
            if nan_row >= 0:
                raise ValueError(f"metrics need scores that are numbers, found NaN in row {nan_row}")
        hits = np.empty((num_videos, k), dtype=bool)
        find_hits(class_ids, self._label_ids, self._label_ends, hits)
        return TopPairs(best_scores, class_ids, hits)


def _float_array(scores: Values) -> Array:
    if isinstance(scores, torch.Tensor):
        # NumPy has no bfloat16; float32 holds every half-precision value exactly.
        is_half = scores.dtype in (torch.bfloat16, torch.float16)
        scores = (scores.float() if is_half else scores).detach().cpu().numpy()
    array = np.asarray(scores)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    return np.ascontiguousarray(array)


def _label_array(labels: Values) -> Array:
    """Returns the labels as float32 or uint8, the types that the loops are compiled for."""
    if isinstance(labels, torch.Tensor):
        # On a device they become bytes first: a quarter of the copy.
        is_ready = labels.device.type == "cpu" and labels.dtype in (torch.float32, torch.bool)
        labels = (labels.detach() if is_ready else labels > 0).cpu().numpy()
    array = np.asarray(labels)
    if array.dtype != np.float32:
        array = (array if array.dtype == np.bool_ else np.asarray(array > 0)).view(np.uint8)
    return np.ascontiguousarray(array)


class Metric(abc.ABC):
    """A number about scored videos, exact however they are split into batches and over workers; picklable."""

    def update(self, scores: Values, labels: Values) -> None:
        """Adds the videos of a batch: `scores` [B, C] probabilities, `labels` [B, C] multi-hot; B = 0 is legal."""
        self.update_ranked(RankedBatch(scores, labels))

    @abc.abstractmethod
    def update_ranked(self, batch: RankedBatch) -> None:
        """Adds the videos of a batch that several metrics share."""

    @abc.abstractmethod
    def merge(self, other: Self) -> None:
        """Adds every video that `other` has seen, as if this metric had seen it."""

    @abc.abstractmethod
    def compute(self) -> float:
        """Returns the metric over every video seen so far; NaN without any."""


METRICS: Registry[Metric] = Registry("metric", entry_point_group="yt8m_ray.metrics")


def build_metric(name: str, **options: Any) -> Metric:
    """Returns the metric `name` without videos; ValueError where the name or an option is invalid."""
    return METRICS.build({"name": name, **options})


def update_all(metrics: Iterable[Metric], scores: Values, labels: Values) -> None:
    """Adds a batch to several metrics, which share the selection of its best classes."""
    batch = RankedBatch(scores, labels)
    for metric in metrics:
        metric.update_ranked(batch)
