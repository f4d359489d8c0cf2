"""The compiled loops over scores and labels, against sorting and lists in Python."""

from __future__ import annotations

import numpy as np
import pytest

from yt8m_ray.metrics.selection import MAX_SELECTED, NUM_LANES, find_hits, find_labels, select_best

CLASS_COUNTS = [1, 7, 8, 9, NUM_LANES - 1, NUM_LANES, NUM_LANES + 1, 2 * NUM_LANES, 3 * NUM_LANES + 7]


def sorted_ids(row: np.ndarray, k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda class_id: (-row[class_id], class_id))[:k]


def selected(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    best_scores = np.empty((len(scores), k), scores.dtype)
    best_ids = np.empty((len(scores), k), np.uint16)
    assert select_best(scores, best_scores, best_ids) == -1
    return best_scores, best_ids


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
@pytest.mark.parametrize("num_values", [1, 2, 5, 10_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_best_classes_are_those_of_a_stable_sort(num_classes: int, num_values: int, dtype: type) -> None:
    scores = (np.random.RandomState(num_classes).randint(0, num_values, (9, num_classes)) - num_values // 2).astype(
        dtype
    )
    for k in sorted({1, min(20, num_classes), min(MAX_SELECTED, num_classes)}):
        best_scores, best_ids = selected(scores, k)
        assert best_ids.tolist() == [sorted_ids(row, k) for row in scores]
        assert np.array_equal(best_scores, np.take_along_axis(scores, best_ids.astype(np.int64), axis=1))


@pytest.mark.parametrize("filling", [-np.inf, np.inf, 0.0])
def test_rows_of_infinite_or_equal_scores_are_selected_by_class_id(filling: float) -> None:
    scores = np.full((2, 100), filling, np.float32)
    scores[1, [3, 90]] = np.inf, 5.0
    _, best_ids = selected(scores, 20)
    assert best_ids.tolist() == [sorted_ids(row, 20) for row in scores]


@pytest.mark.parametrize("class_id", [0, NUM_LANES, 199])
def test_the_row_of_the_first_nan_is_told(class_id: int) -> None:
    scores = np.zeros((5, 200), np.float32)
    scores[3, class_id] = scores[4, 0] = np.nan
    assert select_best(scores, np.empty((5, 20), np.float32), np.empty((5, 20), np.uint16)) == 3


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_labels_are_found_video_by_video(num_classes: int, share: float, dtype: type) -> None:
    is_label = np.random.RandomState(num_classes).rand(40, num_classes) < share
    is_label[7] = False
    ends, class_counts = np.empty(40, np.int64), np.zeros(num_classes, np.int64)
    class_ids = find_labels(is_label.astype(dtype), ends, class_counts)
    assert class_ids.tolist() == [class_id for row in is_label for class_id in np.flatnonzero(row)]
    assert ends.tolist() == np.cumsum(is_label.sum(axis=1)).tolist()
    assert class_counts.tolist() == is_label.sum(axis=0).tolist()


def test_hits_are_the_selected_classes_among_the_labels_of_the_same_video() -> None:
    hits = np.empty((3, 2), dtype=bool)
    class_ids = np.array([[1, 2], [4, 1], [4, 5]], np.uint16)
    find_hits(class_ids, np.array([2, 4, 4, 7], np.int32), np.array([2, 2, 4]), hits)
    assert hits.tolist() == [[False, True], [False, False], [True, False]]
