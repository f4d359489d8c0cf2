"""GAP, Hit@1, PERR and mAP against published values, and against loops over videos, classes and pairs.

The golden values were printed by the published calculators for the arrays below; the two repositories agree on them.
"""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from yt8m_ray.metrics import METRICS, build_metric, update_all
from yt8m_ray.metrics.base import RankedBatch
from yt8m_ray.metrics.selection import MAX_SELECTED

NAMES = ("gap", "hit_at_1", "mean_ap", "perr")
SCORES = np.random.RandomState(0).rand(8, 30)
LABELS = np.random.RandomState(1).rand(8, 30) < 0.1


def value(name: str, scores: np.ndarray, labels: np.ndarray, **options: int) -> float:
    metric = build_metric(name, **options)
    metric.update(scores, labels)
    return metric.compute()


def tied_scores(seed: int, num_videos: int = 12, num_classes: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Scores of five values only, so that nearly all of them tie, and labels."""
    random = np.random.RandomState(seed)
    return random.randint(0, 5, (num_videos, num_classes)) / 5, random.rand(num_videos, num_classes) < 0.15


def best_classes(scores: np.ndarray, k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda class_id: (-scores[class_id], class_id))[:k]


def average_precision(pairs: list[tuple[float, bool]], num_positives: int) -> float:
    """The published formula on pairs that are in order."""
    num_hits, total = 0, 0.0
    for rank, (_, hit) in enumerate(pairs, start=1):
        if hit:
            num_hits += 1
            total += num_hits / rank
    return total / num_positives if num_positives else 0.0


def pooled(scores: np.ndarray, labels: np.ndarray, k: int) -> list[tuple[int, float, bool]]:
    return [
        (class_id, scores[row, class_id], bool(labels[row, class_id]))
        for row in range(len(scores))
        for class_id in best_classes(scores[row], k)
    ]


def test_gap_equals_the_published_values() -> None:
    assert value("gap", SCORES, LABELS) == pytest.approx(0.137587215825, abs=5e-13)
    assert value("gap", SCORES, LABELS, top_k=5) == pytest.approx(0.066734887503, abs=5e-13)


def test_hit_at_1_equals_the_published_value() -> None:
    assert value("hit_at_1", SCORES, LABELS) == 0.125


def test_perr_equals_the_published_value() -> None:
    assert value("perr", SCORES, LABELS) == pytest.approx(0.127678571429, abs=5e-13)


def test_mean_ap_equals_the_published_value_over_the_classes_with_a_video() -> None:
    metric = build_metric("mean_ap")
    metric.update(SCORES, LABELS)
    assert metric.compute() == pytest.approx(0.375757575758, abs=5e-13)
    assert metric.num_classes == 22


def test_a_video_without_labels_counts_as_published() -> None:
    labels = LABELS.copy()
    labels[0] = False
    assert value("perr", SCORES, labels) == pytest.approx(0.102678571429, abs=5e-13)
    assert value("hit_at_1", SCORES, labels) == 0.125
    assert value("gap", SCORES, labels) == pytest.approx(0.129572426943, abs=5e-13)


@pytest.mark.parametrize("name", NAMES)
def test_without_any_label_a_metric_is_zero(name: str) -> None:
    assert value(name, SCORES, np.zeros_like(LABELS)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_before_any_video_a_metric_is_nan(name: str) -> None:
    metric = build_metric(name)
    metric.update(np.zeros((0, 30)), np.zeros((0, 30)))
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(
    ("num_positives", "expected"), [(2, 0.833333), (4, 0.416667)], ids=["all labels ranked", "labels outside"]
)
def test_average_precision_equals_the_published_examples(num_positives: int, expected: float) -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.1, 0.0]])
    labels = np.array([[1, 0, 1, 0, 0, 0]])
    labels[0, 4 : 2 + num_positives] = 1
    assert value("gap", scores, labels, top_k=4) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_classes", [5, 30, 70])
def test_without_ties_a_metric_equals_its_definition_in_loops(name: str, num_classes: int) -> None:
    random = np.random.RandomState(num_classes)
    scores, labels = random.rand(40, num_classes), random.rand(40, num_classes) < random.rand(40, 1)
    pairs = sorted(pooled(scores, labels, 20), key=lambda pair: -pair[1])
    by_class = {
        class_id: average_precision([pair[1:] for pair in pairs if pair[0] == class_id], int(labels[:, class_id].sum()))
        for class_id in range(num_classes)
        if labels[:, class_id].any()
    }
    expected = {
        "gap": average_precision([pair[1:] for pair in pairs], int(labels.sum())),
        "mean_ap": sum(by_class.values()) / len(by_class),
        "hit_at_1": sum(labels[row, best_classes(scores[row], 1)[0]] for row in range(40)) / 40,
        "perr": sum(
            labels[row, best_classes(scores[row], labels[row].sum())].mean() for row in range(40) if labels[row].any()
        )
        / 40,
    }
    assert value(name, scores, labels) == pytest.approx(expected[name], abs=1e-14)


def test_tied_pairs_count_by_their_mean_over_all_orders() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.5, 0.5, 0.2, 0.2]])
    labels = np.array([[1, 1, 0, 0, 1, 0, 1]], dtype=bool)
    in_order = [
        average_precision(
            [(0.9, True), *((0.5, hit) for hit in middle), *((0.2, hit) for hit in last)], num_positives=4
        )
        for middle in itertools.permutations(labels[0, 1:5])
        for last in itertools.permutations(labels[0, 5:])
    ]
    assert value("gap", scores, labels) == pytest.approx(np.mean(in_order), abs=1e-14)


def test_tied_videos_of_a_class_count_by_their_mean_over_all_orders() -> None:
    scores = np.array([[0.5, 0.1], [0.5, 0.3], [0.5, 0.2], [0.7, 0.9]])
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 1]], dtype=bool)
    in_order = [
        average_precision([(0.7, False), *((0.5, hit) for hit in order)], num_positives=2)
        for order in itertools.permutations([True, False, True])
    ]
    assert value("mean_ap", scores, labels) == pytest.approx((np.mean(in_order) + 1.0) / 2, abs=1e-14)


def expected_average_precision(pairs: list[tuple[float, bool]], num_positives: int) -> float:
    """The mean over all orders of equal scores, group by group: a group's order does not change the other groups."""
    total, num_pairs, num_hits = 0.0, 0, 0
    for _, group in itertools.groupby(sorted(pairs, key=lambda pair: -pair[0]), key=lambda pair: pair[0]):
        hits = [hit for _, hit in group]
        orders = list(itertools.combinations(range(1, len(hits) + 1), sum(hits)))  # the places that the hits take
        precisions = [
            (num_hits + found) / (num_pairs + place) for order in orders for found, place in enumerate(order, start=1)
        ]
        total += sum(precisions) / len(orders)
        num_pairs += len(hits)
        num_hits += sum(hits)
    return total / num_positives


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_with_ties_and_negative_scores_gap_and_mean_ap_equal_a_loop_over_all_orders(seed: int, dtype: type) -> None:
    random = np.random.RandomState(seed)
    scores = random.choice(np.linspace(-1, 1, 61), (9, 23)).astype(dtype)
    scores[scores == 0] *= random.choice([-1, 1], np.count_nonzero(scores == 0))  # -0.0 equals 0.0
    labels = random.rand(9, 23) < 0.15
    labels[2] = False
    pairs = pooled(scores, labels, 12)
    by_class = [
        expected_average_precision([pair[1:] for pair in pairs if pair[0] == class_id], int(labels[:, class_id].sum()))
        for class_id in np.flatnonzero(labels.any(axis=0))
    ]
    gap = expected_average_precision([pair[1:] for pair in pairs], int(labels.sum()))
    assert value("gap", scores, labels, top_k=12) == pytest.approx(gap, abs=1e-13)
    assert value("mean_ap", scores, labels, top_k=12) == pytest.approx(np.mean(by_class), abs=1e-13)


@pytest.mark.parametrize("name", ["gap", "mean_ap"])
def test_parts_of_other_precision_are_ranked_together(name: str) -> None:
    scores, labels = tied_scores(seed=6)
    scores = np.round(scores * 4) / 4  # the same numbers in both types
    metric = build_metric(name)
    metric.update(scores[:5].astype(np.float32), labels[:5])
    metric.update(scores[5:], labels[5:])
    assert metric.compute() == pytest.approx(value(name, scores, labels), abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_in_memory_does_not_matter(name: str) -> None:
    assert value(name, np.asfortranarray(SCORES), LABELS[:, ::-1][:, ::-1]) == value(name, SCORES, LABELS)


def test_more_classes_than_are_selected_at_once_come_in_the_same_order() -> None:
    scores, labels = tied_scores(seed=7, num_classes=120)
    top = RankedBatch(scores, labels).top(MAX_SELECTED + 12)
    assert top.class_ids.tolist() == [best_classes(row, MAX_SELECTED + 12) for row in scores]
    assert np.array_equal(top.hits, np.take_along_axis(labels, top.class_ids.astype(np.int64), axis=1))


def test_perr_of_a_video_with_more_labels_than_are_selected_at_once() -> None:
    scores, labels = np.random.RandomState(8).rand(1, 200), np.zeros((1, 200), dtype=bool)
    labels[0, : MAX_SELECTED + 30] = True
    best = best_classes(scores[0], MAX_SELECTED + 30)
    assert value("perr", scores, labels) == pytest.approx(labels[0, best].mean(), abs=1e-15)


def test_a_tie_at_the_cut_keeps_the_lower_class_ids() -> None:
    scores = np.array([[0.5, 0.5, 0.9, 0.5]])
    for class_id, expected in enumerate([1.0, 0.0, 1.0, 0.0]):
        labels = np.zeros((1, 4), dtype=bool)
        labels[0, class_id] = True
        assert (value("gap", scores, labels, top_k=2) > 0) == bool(expected)
    assert value("hit_at_1", np.array([[0.5, 0.5]]), np.array([[0, 1]])) == 0
    assert value("perr", np.array([[0.2, 0.5, 0.5, 0.5]]), np.array([[0, 1, 1, 0]])) == 1.0


def test_a_class_of_score_zero_is_no_hit_of_perr() -> None:
    assert value("perr", np.array([[0.0, 0.0]]), np.array([[1, 0]])) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_order_and_the_batches_of_the_videos_do_not_matter_even_with_ties(name: str) -> None:
    scores, labels = tied_scores(seed=3)
    order = np.random.RandomState(4).permutation(len(scores))
    metric = build_metric(name)
    for rows in np.split(order, [1, 1, 4, 9]):
        metric.update(scores[rows], labels[rows])
    assert metric.compute() == pytest.approx(value(name, scores, labels), abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_merged_metrics_equal_one_metric_over_all_videos(name: str) -> None:
    parts = [build_metric(name) for _ in range(3)]
    for part, rows in zip(parts, (slice(0, 3), slice(3, 3), slice(3, 8)), strict=True):
        part.update(SCORES[rows], LABELS[rows])
    total = build_metric(name)
    for part in parts:
        total.merge(pickle.loads(pickle.dumps(part)))
    assert total.compute() == pytest.approx(value(name, SCORES, LABELS), abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_updating_metrics_together_equals_updating_them_one_by_one(name: str) -> None:
    scores, labels = tied_scores(seed=5)
    metrics = {name: build_metric(name) for name in NAMES}
    update_all(metrics.values(), scores, labels)
    assert metrics[name].compute() == value(name, scores, labels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_count_like_arrays_of_the_same_values(name: str, dtype: torch.dtype) -> None:
    scores = torch.from_numpy(SCORES).to(dtype)
    tensors = build_metric(name)
    tensors.update(scores, torch.from_numpy(LABELS).float())
    assert tensors.compute() == pytest.approx(value(name, scores.double().numpy(), LABELS), abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_score_is_refused_with_its_row(name: str) -> None:
    scores = SCORES.copy()
    scores[5, 29] = np.nan
    with pytest.raises(ValueError, match="NaN in row 5"):
        value(name, scores, LABELS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label_type", [bool, int, float])
def test_lists_arrays_and_tensors_give_the_same(name: str, label_type: type) -> None:
    labels = LABELS.astype(label_type)
    expected = value(name, SCORES, LABELS)
    for container in (np.ndarray.tolist, torch.from_numpy, np.asarray):
        metric = build_metric(name)
        metric.update(container(SCORES), container(labels))
        assert metric.compute() == expected


def test_bfloat16_labels_are_labels() -> None:
    metric = build_metric("gap")
    metric.update(torch.from_numpy(SCORES), torch.from_numpy(LABELS).to(torch.bfloat16))
    assert metric.compute() == value("gap", SCORES, LABELS)


def test_scores_and_labels_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 30\) and \(8, 29\)"):
        value("gap", SCORES, LABELS[:, :29])


def test_more_classes_than_16_bits_hold_are_ranked_alike() -> None:
    scores = np.zeros((1, 70_000), dtype=np.float32)
    labels = np.zeros((1, 70_000), dtype=bool)
    scores[0, [3, 3 + 65_536]] = 0.2, 0.9
    labels[0, 3 + 65_536] = True
    assert value("mean_ap", scores, labels) == 1.0


def test_every_registered_metric_is_tested_here() -> None:
    assert set(METRICS.names()) == set(NAMES)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="top_n"):
        build_metric("gap", top_n=20)
