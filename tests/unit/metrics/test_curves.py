from __future__ import annotations

import numpy as np
import pytest

from yt8m_ray.metrics import build_metric
from yt8m_ray.metrics.curves import NUM_POINTS, best_and_worst, calibration, class_arrays, precision_recall
from yt8m_ray.metrics.gap import MeanAP

RNG = np.random.default_rng(1)
LABELS = RNG.random((400, 25)) < np.linspace(0.002, 0.3, 25)
SCORES = np.clip(0.4 * LABELS * RNG.random(25) + 0.6 * RNG.random((400, 25)), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def metric() -> MeanAP:
    metric = build_metric("mean_ap")
    assert isinstance(metric, MeanAP)
    metric.update(SCORES[:150], LABELS[:150])
    metric.update(SCORES[150:], LABELS[150:])
    return metric


def test_the_mean_of_the_classes_is_the_metric(metric: MeanAP) -> None:
    arrays = class_arrays(metric)

    assert np.nanmean(arrays["class_ap"]) == pytest.approx(metric.compute(), rel=1e-6)
    assert arrays["class_num_videos"].tolist() == LABELS.sum(axis=0).tolist()
    assert np.isnan(arrays["class_ap"]).tolist() == (LABELS.sum(axis=0) == 0).tolist()


def test_a_curve_has_the_precision_and_recall_of_each_distinct_score() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.3], np.float32)
    hits = np.array([True, False, True, True])

    curve = precision_recall(scores, hits, num_videos=5)

    assert curve.tolist() == [[1 / 5, 2 / 5, 3 / 5], [1, 2 / 3, 3 / 4]]


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    hits = RNG.random(5000) < 0.3
    curve = precision_recall(RNG.random(5000).astype(np.float32), hits, num_videos=int(hits.sum()))

    assert curve.shape == (2, NUM_POINTS)
    assert curve[:, -1].tolist() == [1.0, hits.sum() / 5000]


def test_classes_with_curves_are_the_best_and_the_worst_of_those_with_ten_videos() -> None:
    precisions = np.array([0.99, *np.linspace(0.1, 0.9, 14), np.nan])
    counts = np.array([9, *[10] * 14, 0])

    assert best_and_worst(precisions, counts).tolist() == [14, 13, 12, 11, 10, 5, 4, 3, 2, 1]
    assert best_and_worst(precisions[:4], counts[:4]).tolist() == [0, 3, 2, 1]


def test_calibration_is_the_share_of_labels_among_pairs_of_like_score(metric: MeanAP) -> None:
    top = np.argsort(-SCORES, axis=1, kind="stable")[:, :20]
    scores, hits = np.take_along_axis(SCORES, top, axis=1), np.take_along_axis(LABELS, top, axis=1)
    inside = (scores >= 0.55) & (scores < 0.6)

    arrays = calibration(metric)

    assert arrays["calibration_num_pairs"].sum() == 400 * 20
    assert arrays["calibration_num_pairs"][11] == inside.sum()
    assert arrays["calibration_score"][11] == pytest.approx(scores[inside].mean(), rel=1e-5)
    assert arrays["calibration_frequency"][11] == pytest.approx(hits[inside].mean(), rel=1e-5)
