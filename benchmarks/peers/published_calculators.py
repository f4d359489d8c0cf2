"""The peer of metrics.py: GAP, Hit@1, PERR and mAP step by step as in the starter code of 2017-2018.

Written from a description of that code, in plain Python and NumPy as it was. For each batch:

- Hit@1 over the whole batch by argmax; PERR video by video: a partial sort, then a loop over the best classes;
- for each video a partial sort and a list of (class, score, label), all of them dealt into one list for each class;
- for each class the sum of its column of labels;
- for each class its pairs, checked, pushed one by one on the class's heap, also where there are none;
- the lists joined into one and pushed on the heap of all pairs.

At the end each heap is shuffled with a fixed seed, sorted by score and walked through.
"""

from __future__ import annotations

import heapq
import numbers
import random
from collections.abc import Sequence

import numpy as np

TOP_K = 20


class HeapOfPairs:
    """Average precision of the (score, label) pairs that it is given."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, float]] = []
        self._num_positives = 0.0

    def accumulate(self, scores: Sequence[float], labels: Sequence[float], num_positives: float) -> None:
        if len(scores) != len(labels):
            raise ValueError("scores and labels differ in length")
        if not isinstance(num_positives, numbers.Number) or num_positives < 0:
            raise ValueError("num_positives is no number or negative")
        self._num_positives += num_positives
        for index in range(len(scores)):
            heapq.heappush(self._heap, (scores[index], labels[index]))

    @property
    def has_positives(self) -> bool:
        return self._num_positives > 0

    def average_precision(self) -> float:
        if not self._heap or not self._num_positives:
            return 0.0
        random.seed(0)
        pairs = random.sample(self._heap, len(self._heap))
        pairs.sort(key=lambda pair: pair[0], reverse=True)
        found = total = 0.0
        for rank, (_, label) in enumerate(pairs, start=1):
            if label > 0:
                found += 1
                total += found / rank
        return float(total / self._num_positives)


class PublishedCalculators:
    """The four metrics of the videos seen so far."""

    def __init__(self, num_classes: int) -> None:
        self._all = HeapOfPairs()
        self._by_class = [HeapOfPairs() for _ in range(num_classes)]
        self._num_videos = 0
        self._hits = self._precisions = 0.0

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        best = np.argmax(scores, axis=1)
        self._hits += float(np.sum(labels[np.arange(len(best)), best]))
        self._precisions += sum(precision_at_equal_recall(*video) for video in zip(scores, labels, strict=True))
        self._num_videos += len(scores)

        class_scores, class_labels, num_positives = pairs_by_class(scores, labels)
        for class_id, heap in enumerate(self._by_class):
            heap.accumulate(class_scores[class_id], class_labels[class_id], num_positives[class_id])
        self._all.accumulate(
            [score for found in class_scores for score in found],
            [label for found in class_labels for label in found],
            sum(num_positives),
        )

    def compute(self) -> dict[str, float]:
        return {
            "gap": self._all.average_precision(),
            "hit_at_1": self._hits / self._num_videos,
            "perr": self._precisions / self._num_videos,
            "mean_ap": float(np.mean([heap.average_precision() for heap in self._by_class if heap.has_positives])),
        }


def precision_at_equal_recall(scores: np.ndarray, labels: np.ndarray) -> float:
    num_labels = int(np.sum(labels))
    if not num_labels:
        return 0.0
    hits = 0.0
    for class_id in np.argpartition(scores, -num_labels)[-num_labels:]:
        if scores[class_id] > 0:
            hits += labels[class_id]
    return hits / num_labels


def pairs_by_class(
    scores: np.ndarray, labels: np.ndarray
) -> tuple[list[list[float]], list[list[float]], list[np.number]]:
    """Returns, for each class, scores and labels of the videos that have it among their best, and its labels' sum."""
    triplets = []
    for video in range(len(scores)):
        kept = np.argpartition(scores[video], -TOP_K)[-TOP_K:]
        triplets.extend([(class_id, scores[video][class_id], labels[video][class_id]) for class_id in kept])
    num_classes = scores.shape[1]
    class_scores: list[list[float]] = [[] for _ in range(num_classes)]
    class_labels: list[list[float]] = [[] for _ in range(num_classes)]
    for class_id, score, label in triplets:
        class_scores[class_id].append(score)
        class_labels[class_id].append(label)
    return class_scores, class_labels, [np.sum(labels[:, class_id]) for class_id in range(num_classes)]
