from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.data.inspection.histograms import CLASS_TABLE, write_histograms
from yt8m_ray.data.inspection.shard_counts import Survey
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.losses import build_loss
from yt8m_ray.losses.class_weights import class_weights, read_class_counts


def test_weights_are_inverse_to_the_counts() -> None:
    weights = class_weights(np.array([100, 1, 10]), most=1000)
    assert weights[1] / weights[0] == pytest.approx(100)
    assert weights[1] / weights[2] == pytest.approx(10)


@pytest.mark.parametrize("most", [1.0, 1.5, 10.0, 1e6])
def test_the_mean_weight_over_label_occurrences_is_one_and_none_is_above_the_most(most: float) -> None:
    counts = np.random.default_rng(0).zipf(1.3, 500).clip(max=10**6)
    weights = class_weights(counts, most=most)
    assert np.average(weights, weights=counts) == pytest.approx(1.0)
    assert weights.max() <= most


def test_a_capped_class_leaves_its_share_to_the_others() -> None:
    # 108 occurrences: 8 of weight 2, so that 92 are left for the hundred of the other class.
    assert class_weights(np.array([8, 100]), most=2.0).tolist() == pytest.approx([2.0, 0.92])


def test_a_class_without_videos_weighs_the_most() -> None:
    assert class_weights(np.array([0, 5, 5]), most=4.0).tolist() == pytest.approx([4.0, 1.0, 1.0])


def test_most_1_weighs_all_alike() -> None:
    assert class_weights(np.array([0, 3, 99, 7]), most=1.0).tolist() == pytest.approx([1.0] * 4)


def test_counts_are_read_from_the_published_vocabulary(tmp_path: Path) -> None:
    vocabulary = Vocabulary.load()
    vocabulary.save(tmp_path / "vocabulary.csv")
    counts = read_class_counts(tmp_path / "vocabulary.csv")
    assert counts.tolist() == vocabulary.train_video_counts.tolist()
    assert counts[0] == 788288


def test_counts_are_read_from_what_inspect_writes(tmp_path: Path) -> None:
    write_histograms(Survey(class_counts=np.array([4, 0, 2])), tmp_path, features=["rgb"], num_classes=5)
    assert read_class_counts(tmp_path / CLASS_TABLE).tolist() == [4, 0, 2, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,count\n0,1\n", "expected the columns Index, TrainVideoCount or class_id, num_videos, found id, count"),
        ("", "expected the columns"),
        ("class_id,num_videos\n0,1\n2,1\n", "expected class 1 and its count, found '2', '1'"),
        ("class_id,num_videos\n0,many\n", "expected class 0 and its count, found '0', 'many'"),
        ("class_id,num_videos\n0\n", "expected class 0 and its count, found '0', None"),
        ("class_id,num_videos\n0,0\n", "no class has a video"),
    ],
)
def test_a_file_that_holds_no_counts_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"counts\.csv: {message}"):
        read_class_counts(tmp_path / "counts.csv")


def test_a_bound_of_class_weights_needs_class_weights() -> None:
    with pytest.raises(ValueError, match="max_class_weight: there are no class_weights to bound"):
        build_loss({"name": "focal", "max_class_weight": 3})


@pytest.mark.parametrize(
    "content", [b"class_id,num_videos\n0,\xff\n", b"class_id,num_videos\n0," + b"9" * 5000 + b"\n"]
)
def test_a_file_that_is_no_table_of_counts_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "counts.csv").write_bytes(content)

    with pytest.raises(ValueError, match=r"counts\.csv: (not a CSV file in UTF-8|expected class 0 and its count)"):
        read_class_counts(tmp_path / "counts.csv")
