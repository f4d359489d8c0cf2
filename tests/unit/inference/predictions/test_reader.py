"""Prediction files that are not what they should be, in formats other than CSV: one message with the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.reader import open_predictions

GOOD = '{"video_id": "a", "class_indexes": [1], "predictions": [0.5]}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"expected a JSON object, found b'\{\\n' \(.*\)"),
        ("[1]", "expected an object with video_id, class_indexes and predictions"),
        ('{"class_indexes": [1], "predictions": [0.5]}', "expected an object with video_id, .*"),
        ('{"video_id": "", "class_indexes": [1], "predictions": [0.5]}', "expected an object with video_id, .*"),
        ('{"video_id": "b", "predictions": [0.5]}', "class_indexes: expected a list"),
        ('{"video_id": "b", "class_indexes": [1, 2], "predictions": [0.5]}', "2 class_indexes and 1 predictions"),
        ('{"video_id": "b", "class_indexes": [[1], [2]], "predictions": [1, 1]}', "expected integers in class_.*"),
        ('{"video_id": "b", "class_indexes": [1.5], "predictions": [0.5]}', "expected integers in class_indexes .*"),
        ('{"video_id": "b", "class_indexes": [1], "predictions": ["0.5"]}', "expected integers .* and numbers in .*"),
        ('{"video_id": "b", "class_indexes": [1], "predictions": [NaN]}', "score nan: expected a number from 0 on"),
        (r'{"video_id": "\ud800", "class_indexes": [1], "predictions": [1]}', "video_id .*: half of a character .*"),
        ('{"video_id": "b", "class_indexes": [1, 1], "predictions": [0, 1]}', "class 1 is there twice"),
    ],
)
def test_a_line_of_json_that_is_none_is_told_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(GOOD + line + "\n" + GOOD)
    with pytest.raises(ValueError, match=rf"^\S+p\.json: line 2: {message}$"):
        list(open_predictions(str(path)).rows())


@pytest.mark.parametrize(
    ("class_ids", "scores", "message"),
    [
        ([[1], [2, 2]], [[0.5], [0.5, 0.5]], "row 1: class 2 is there twice"),
        ([[1], [-2]], [[0.5], [0.5]], "row 1: class id -2 is out of range, .*"),
        ([[1], [2]], [[0.5], [float("nan")]], "row 1: score nan: expected a number from 0 on"),
        ([[1], [2]], [[0.5, 0.5], []], "rows 0 to 1: class_ids and scores differ in length"),
        ([[1], None], [[0.5], [0.5]], "rows 0 to 1: a value is missing"),
        ([["x"], ["y"]], [[0.5], [0.5]], "rows 0 to 1: .*"),
    ],
)
def test_a_parquet_row_that_is_none_is_told_with_its_place(
    tmp_path: Path, class_ids: Any, scores: Any, message: str
) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"video_id": ["a", "b"], "class_ids": class_ids, "scores": scores}), path)
    with pytest.raises(ValueError, match=rf"^\S+p\.parquet: {message}$"):
        list(open_predictions(str(path)).rows())


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"video_id": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r"expected the columns video_id, class_ids, scores, found video_id"):
        open_predictions(str(tmp_path / "p.parquet"))


def test_a_parquet_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"video_id": ["a"]}), tmp_path / "p.parquet")
    (tmp_path / "p.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"p\.parquet: not a sound Parquet file"):
        open_predictions(str(tmp_path / "p.parquet"))


@pytest.mark.parametrize("path", ["no.csv", "s3://bucket/p.csv", "."])
def test_a_path_that_is_no_local_file_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="expected a local file of predictions"):
        open_predictions(path)
