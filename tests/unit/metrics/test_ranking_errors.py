from __future__ import annotations

import numpy as np
import pytest
import torch

from yt8m_ray.metrics.ranking_errors import ranking_errors


def one_minus_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    hits, total = 0, 0.0
    for rank, class_id in enumerate(sorted(range(len(scores)), key=lambda class_id: -scores[class_id]), start=1):
        if labels[class_id]:
            hits += 1
            total += hits / rank
    return 1 - total / hits


def test_the_error_of_a_video_is_one_minus_its_average_precision() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 15)), rng.random((20, 15)) < 0.3
    labels[:, 0] |= ~labels.any(axis=1)
    found = ranking_errors(torch.from_numpy(logits), torch.from_numpy(labels).float())
    expected = [one_minus_average_precision(*pair) for pair in zip(logits, labels, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_labels_before_all_other_classes_and_a_video_without_labels_are_no_error() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert ranking_errors(logits, labels).tolist() == pytest.approx([0.0, 0.0, 2 / 3])


def test_a_batch_of_no_videos_has_no_errors() -> None:
    assert ranking_errors(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
