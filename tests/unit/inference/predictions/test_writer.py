"""Prediction files: the bytes of the competition's CSV, the Parquet columns, nothing half-written."""

from __future__ import annotations

import pathlib

import pyarrow.parquet as pq
import pytest
import torch

from yt8m_ray.inference.predictions.writer import SubmissionWriter
from yt8m_ray.topk import TopK


def predictions(class_ids: list[list[int]], scores: list[list[float]]) -> TopK:
    return TopK(class_ids=torch.tensor(class_ids), scores=torch.tensor(scores, dtype=torch.float32))


def test_the_csv_has_the_bytes_of_the_published_inference_script(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.csv"
    with SubmissionWriter(str(path)) as writer:
        writer.write(["abcd"], predictions([[3, 12, 0, 7]], [[1.0, 0.5, 0.123456789, 1e-5]]))
        writer.write(["é-_1"], predictions([[3861, 1, 2, 4]], [[0.98765432, 0.25, 0.001, 0.0]]))
    # Pairs worked out by hand from "%i %g" (reference: 0.5 -> 0.5, 1e-5 -> 1e-05, 1.0 -> 1, six significant digits).
    assert path.read_bytes() == (
        b"VideoId,LabelConfidencePairs\n"
        b"abcd,3 1 12 0.5 0 0.123457 7 1e-05\n"
        b"\xc3\xa9-_1,3861 0.987654 1 0.25 2 0.001 4 0\n"
    )


def test_without_videos_the_csv_is_its_header(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.csv"
    with SubmissionWriter(str(path)):
        pass
    assert path.read_bytes() == b"VideoId,LabelConfidencePairs\n"


def test_parquet_rows_keep_order_and_full_precision(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "predictions.parquet"
    with SubmissionWriter(str(path)) as writer:
        writer.write(["b", "a"], predictions([[3, 12], [0, 1]], [[0.75, 0.5], [0.123456789, 0.0]]))
    table = pq.read_table(path)
    assert [str(field.type) for field in table.schema] == ["string", "list<element: int32>", "list<element: float>"]
    assert table.column_names == ["video_id", "class_ids", "scores"]
    assert table["video_id"].to_pylist() == ["b", "a"]
    assert table["class_ids"].to_pylist() == [[3, 12], [0, 1]]
    assert table["scores"].to_pylist()[1][0] == pytest.approx(0.123456789, rel=1e-7)


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.parquet"])
def test_after_an_error_nothing_stays(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(RuntimeError, match="interrupted"), SubmissionWriter(str(tmp_path / name)) as writer:
        writer.write(["a"], predictions([[1]], [[0.5]]))
        raise RuntimeError("interrupted")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_survives_a_failed_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("earlier")
    with pytest.raises(RuntimeError, match="interrupted"), SubmissionWriter(str(path)):
        raise RuntimeError("interrupted")
    assert path.read_text() == "earlier"


@pytest.mark.parametrize("video_id", ["a,b", 'a"b', "a\nb", "a\rb"])
def test_an_id_that_the_csv_cannot_carry_is_refused(tmp_path: pathlib.Path, video_id: str) -> None:
    with pytest.raises(ValueError, match="video id"), SubmissionWriter(str(tmp_path / "p.csv")) as writer:
        writer.write([video_id], predictions([[1]], [[0.5]]))


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"\.csv, \.csv\.gz or \.parquet"):
        SubmissionWriter(str(tmp_path / "predictions.json"))
    assert list(tmp_path.iterdir()) == []
