"""Ground truth as CSV, and the scores against it, beside the metrics of dense predictions and the published values."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.shards import ROWS, SHARD
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.ground_truth import read_truth, write_truth
from yt8m_ray.inference.predictions.merge import merge_predictions
from yt8m_ray.metrics import build_metric


def save_predictions(path: Path, scores: np.ndarray, top_k: int = 20) -> str:
    """Saves dense scores [N, C] as JSON lines in full precision, the best of each video, by its number."""
    with path.open("w") as file:
        for video, row in enumerate(scores):
            best = np.argsort(-row, kind="stable")[:top_k]
            found = {"video_id": f"v{video}", "class_indexes": best.tolist(), "predictions": row[best].tolist()}
            file.write(json.dumps(found) + "\n")
    return str(path)


def save_truth(path: Path, labels: np.ndarray) -> str:
    path.write_text("".join(f"v{n},{' '.join(map(str, np.flatnonzero(row)))}\n" for n, row in enumerate(labels)))
    return str(path)


def score(folder: Path, scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    predictions = save_predictions(folder / "p.json", scores)
    return merge_predictions([predictions], truth=save_truth(folder / "t.csv", labels))


def test_the_published_values_come_out(tmp_path: Path) -> None:
    # What both published repositories gave for these arrays (reference: metric golden values).
    scores = np.random.RandomState(0).rand(8, 30)
    labels = np.random.RandomState(1).rand(8, 30) < 0.1
    found = score(tmp_path, scores, labels)
    assert found["gap"] == pytest.approx(0.137587215825, abs=1e-12)
    assert found["hit_at_1"] == 0.125
    assert found["perr"] == pytest.approx(0.127678571429, abs=1e-12)


@pytest.mark.parametrize("num_levels", [8, 1 << 30])
def test_the_scores_are_those_of_our_metrics_on_dense_predictions(tmp_path: Path, num_levels: int) -> None:
    rng = np.random.default_rng(num_levels)
    scores = rng.integers(0, num_levels, (1300, 60)) / num_levels  # few levels: ties everywhere
    labels = rng.random((1300, 60)) < 0.05
    found = score(tmp_path, scores, labels)
    for name in ("gap", "hit_at_1", "perr"):
        metric = build_metric(name)
        metric.update(scores, labels)
        assert found[name] == pytest.approx(metric.compute(), abs=1e-12), name


def test_the_older_mean_is_of_each_video_alone(tmp_path: Path) -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    # By hand: (1/1 + 2/3) / 2 and 1/1; the third video has no labels.
    assert score(tmp_path, scores, labels)["per_video_ap"] == pytest.approx((5 / 6 + 1) / 2)


def test_labels_beyond_what_is_listed_count_in_every_denominator(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("v0,3 0.5\n")
    (tmp_path / "t.csv").write_text("v0,1 3 7 9\n")
    found = merge_predictions([str(tmp_path / "p.csv")], truth=str(tmp_path / "t.csv"))
    assert (found["gap"], found["per_video_ap"], found["hit_at_1"], found["perr"]) == (0.25, 0.25, 1.0, None)


def test_a_video_without_predictions_counts_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p.csv").write_text("v0,3 0.5\nx,3 0.9\n")
    (tmp_path / "t.csv").write_text("v0,3\nv1,3\n")
    with caplog.at_level(logging.WARNING):
        found = merge_predictions([str(tmp_path / "p.csv")], truth=str(tmp_path / "t.csv"))
    assert found == {
        "gap": 0.5,
        "per_video_ap": 0.5,
        "hit_at_1": 0.5,
        "perr": 0.5,
        "num_videos": 2,
        "missing": 1,
        "unknown": 1,
    }
    assert [record.getMessage() for record in caplog.records] == [
        "1 videos of the truth have no predictions, and count so: v1",
        "1 predicted videos are not in the truth, and left out: x",
    ]


def test_a_truth_of_other_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("v0,3 0.5\n")
    (tmp_path / "t.csv").write_text("a,3\nb,3\n")
    with pytest.raises(ValueError, match="truth: none of its 2 videos is predicted"):
        merge_predictions([str(tmp_path / "p.csv")], truth=str(tmp_path / "t.csv"), output=str(tmp_path / "o.csv"))
    assert not (tmp_path / "o.csv").exists()


def test_a_truth_without_a_label_scores_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("v0,3 0.5\nv1,3 0.5\n")
    (tmp_path / "t.csv").write_text("v0,\nv1,\n")
    with pytest.raises(ValueError, match="truth: none of its 2 videos has a label; nothing can be scored"):
        merge_predictions([str(tmp_path / "p.csv")], truth=str(tmp_path / "t.csv"))


def test_videos_of_the_truth_without_a_label_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "p.csv").write_text("v0,3 0.5\nv1,3 0.5\n")
    (tmp_path / "t.csv").write_text("v0,3\nv1,\n")
    assert merge_predictions([str(tmp_path / "p.csv")], truth=str(tmp_path / "t.csv"))["hit_at_1"] == 0.5
    assert "1 of 2 videos of the truth list no label, and count as such" in caplog.text


def test_a_merge_is_scored_before_its_scores_are_rounded(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("a,1 0.1234561\nb,2 0.1234562\n")
    (tmp_path / "t.csv").write_text("a,5\nb,2\n")
    found = merge_predictions([str(tmp_path / "p.csv")], truth=str(tmp_path / "t.csv"), output=str(tmp_path / "o.csv"))
    assert (tmp_path / "o.csv").read_text().splitlines()[1:] == ["a,1 0.123456", "b,2 0.123456"]
    assert found["gap"] == 0.5


@pytest.mark.parametrize("header", ["", "VideoId,Labels\n", "VIDEO_ID,LABEL1 LABEL2\n", "id,labels\r\n"])
def test_truth_is_read_with_a_header_or_without(tmp_path: Path, header: str) -> None:
    (tmp_path / "t.csv").write_text(header + "a,3 1 3\nb,\nc,7\n")
    truth = read_truth(str(tmp_path / "t.csv"))
    assert list(truth.items()) == [("a", [1, 3]), ("b", []), ("c", [7])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.csv: the file is empty"),
        ("VideoId,Labels\n", "t.csv: no videos"),
        ("a,1\nb,0.5\n", "t.csv: line 2: class id '0.5': expected an integer"),
        ("a,1\nb\n", "t.csv: line 2: expected VIDEO_ID,CLASS CLASS ..., found 'b'"),
        ("a,1\nb,2\na,3\n", "t.csv: video 'a' is there twice: videos 0 and 2"),
    ],
)
def test_a_truth_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError) as caught:
        read_truth(str(tmp_path / "t.csv"))
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_a_missing_truth_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"truth: no\.csv: expected a local file of ground truth"):
        read_truth("no.csv")


@pytest.mark.parametrize("has_header", [False, True])
def test_the_truth_of_shards_is_their_labels_in_their_order(tmp_path: Path, has_header: bool) -> None:
    (tmp_path / "s.tfrecord").write_bytes(SHARD)
    path = tmp_path / "deep" / "t.csv"
    count = write_truth([str(tmp_path / "s.tfrecord")], str(path), num_classes=50, has_header=has_header)
    lines = [f"{row.video_id},{' '.join(map(str, row.labels.tolist()))}\n" for row in ROWS]
    assert path.read_text() == "".join(["VideoId,Labels\n"][:has_header] + lines)
    assert count == len(ROWS) == len(read_truth(str(path)))


def video(name: str, labels: list[int] | None) -> bytes:
    known = {} if labels is None else {"labels": np.array(labels, np.int64)}
    return frame_record(encode_example({"id": [name.encode()], **known}))


def test_the_truth_of_a_video_without_labels_is_not_that_it_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s.tfrecord").write_bytes(video("a", [3]) + video("b", None) + video("c", []))
    assert write_truth([str(tmp_path / "s.tfrecord")], str(tmp_path / "t.csv"), num_classes=50) == 2
    assert (tmp_path / "t.csv").read_text() == "a,3\nc,\n"
    assert "1 of 3 videos have no labels and are left out" in caplog.text


def test_shards_without_labels_have_no_truth(tmp_path: Path) -> None:
    (tmp_path / "s.tfrecord").write_bytes(video("a", None) + video("b", None))
    with pytest.raises(ValueError, match="shards: none of the 2 videos has labels"):
        write_truth([str(tmp_path / "s.tfrecord")], str(tmp_path / "t.csv"), num_classes=50)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tfrecord"]


def test_after_a_bad_record_no_truth_stays(tmp_path: Path) -> None:
    (tmp_path / "s.tfrecord").write_bytes(SHARD[:-9])
    with pytest.raises(ValueError, match="bytes promised"):
        write_truth([str(tmp_path / "s.tfrecord")], str(tmp_path / "t.csv"), num_classes=50)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tfrecord"]


def test_a_bad_record_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s.tfrecord").write_bytes(SHARD[:-9])
    path = str(tmp_path / "t.csv")
    assert write_truth([str(tmp_path / "s.tfrecord")], path, num_classes=50, on_corrupt="skip") == len(ROWS) - 1
    assert "record 6" in caplog.text
