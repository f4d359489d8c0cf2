from __future__ import annotations

import numpy as np
import pytest

from yt8m_ray.metrics.base import RankedBatch
from yt8m_ray.metrics.worst_videos import WorstVideos

NUM_VIDEOS, NUM_CLASSES = 90, 30
RNG = np.random.default_rng(0)
SCORES = RNG.random((NUM_VIDEOS, NUM_CLASSES)).round(1).astype(np.float32)  # with ties
LABELS = RNG.random((NUM_VIDEOS, NUM_CLASSES)) < 0.08
IDS = [f"v{number}é" for number in RNG.permutation(NUM_VIDEOS)]


def by_loops(row: int) -> float:
    """The mean over a video's labels of the precision at the label's rank, among its best 20 classes."""
    order = sorted(range(NUM_CLASSES), key=lambda class_id: (-SCORES[row, class_id], class_id))[:20]
    found, total = 0, 0.0
    for rank, class_id in enumerate(order, 1):
        if LABELS[row, class_id]:
            found += 1
            total += found / rank
    return total / int(LABELS[row].sum())


def seen(parts: list[slice]) -> WorstVideos:
    worst = WorstVideos(num_kept=12)
    for part in parts:
        worst.update_ranked(RankedBatch(SCORES[part], LABELS[part]), IDS[part])
    return worst


def test_they_are_the_labelled_videos_of_lowest_average_precision() -> None:
    labelled = [row for row in range(NUM_VIDEOS) if LABELS[row].any()]
    assert len(labelled) < NUM_VIDEOS
    expected = sorted(labelled, key=lambda row: (by_loops(row), 1 - float(SCORES[row].max()), IDS[row]))[:12]

    worst = seen([slice(None)])

    assert [video.video_id for video in worst.videos] == [IDS[row] for row in expected]
    assert worst.videos[5].average_precision == pytest.approx(by_loops(expected[5]))
    assert worst.videos[5].labels == tuple(np.flatnonzero(LABELS[expected[5]]))


def test_batches_and_workers_do_not_matter() -> None:
    whole = seen([slice(None)])
    one, other = seen([slice(0, 7), slice(7, 7), slice(7, 50)]), seen([slice(50, 90)])
    other.merge(one)

    assert other.videos == whole.videos


def test_arrays_hold_them_with_ids_as_bytes() -> None:
    worst = seen([slice(None)])
    arrays = worst.arrays()

    assert [bytes(row).rstrip(b"\0").decode() for row in arrays["video_ids"]] == [v.video_id for v in worst.videos]
    assert arrays["class_ids"][0].tolist() == list(worst.videos[0].class_ids)
    first = arrays["labels"][0]
    assert first[first >= 0].tolist() == list(worst.videos[0].labels)


def test_nothing_seen_is_nothing_kept() -> None:
    assert WorstVideos().arrays()["video_ids"].shape == (0, 0)
