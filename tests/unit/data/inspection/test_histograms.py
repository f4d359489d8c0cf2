"""The table and the pictures of a data set."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.data.inspection.histograms import write_histograms
from yt8m_ray.data.inspection.shard_counts import Survey

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_table_has_a_row_for_every_class_with_its_published_name(tmp_path: Path) -> None:
    write_histograms(
        Survey(num_videos=5, class_counts=np.array([4, 0, 2])), tmp_path / "new", features=["rgb"], num_classes=5
    )

    with (tmp_path / "new" / "class_histogram.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[:4] == [
        ["class_id", "name", "num_videos"],
        ["0", "Game", "4"],
        ["1", "Video game", "0"],
        ["2", "Vehicle", "2"],
    ]
    assert [row[2] for row in rows[4:]] == ["0", "0"]


def test_classes_whose_names_are_unknown_have_none(tmp_path: Path) -> None:
    write_histograms(Survey(num_videos=1, class_counts=np.array([1])), tmp_path, features=["rgb"], num_classes=4716)

    assert (tmp_path / "class_histogram.csv").read_text().splitlines()[1] == "0,,1"


@pytest.mark.parametrize("clips", [{170: 1}, {1: 3, 300: 2, 5000: 1}, {0: 1}])
def test_there_is_a_picture_of_the_lengths_at_frame_level(tmp_path: Path, clips: dict[int, int]) -> None:
    write_histograms(Survey(num_videos=1, clips=Counter(clips)), tmp_path, features=["rgb"], num_classes=2)

    assert (tmp_path / "frames_histogram.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class_histogram.csv", "frames_histogram.png"]


def test_there_is_a_picture_of_the_classes_where_a_video_has_a_label(tmp_path: Path) -> None:
    counts = Survey(num_videos=9, class_counts=np.random.default_rng(0).integers(0, 50, 2000))

    write_histograms(counts, tmp_path, features=["rgb"], num_classes=3862)

    assert (tmp_path / "class_histogram.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class_histogram.csv", "class_histogram.png"]
