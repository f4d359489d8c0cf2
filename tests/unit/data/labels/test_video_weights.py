from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yt8m_ray.data.labels.video_weights import VideoWeights, boost, save_weights

IDS = [f"v{index}" for index in range(200)]
WEIGHTS = np.linspace(0.1, 1.9, 200)


def test_weights_come_back_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.parquet"
    save_weights(path, IDS, WEIGHTS)
    order = np.random.default_rng(0).permutation(200)[:50]
    found = VideoWeights.load(path).lookup([IDS[index] for index in order])
    assert found.dtype == np.float32
    assert found.tolist() == WEIGHTS[order].astype(np.float32).tolist()


def test_an_empty_batch_has_no_weights() -> None:
    assert VideoWeights(IDS, WEIGHTS).lookup([]).shape == (0,)


@pytest.mark.parametrize("count", [0, 1, 200])
def test_a_video_without_a_weight_is_named(count: int) -> None:
    weights = VideoWeights(IDS[:count], WEIGHTS[:count], path="w.parquet")
    for unknown in ("x", "y", "z"):
        with pytest.raises(ValueError, match=rf"w.parquet: no weight for video '{unknown}', only for {count} others"):
            weights.lookup([*IDS[:count], unknown, "other"])


def test_a_video_that_is_there_twice_is_named() -> None:
    with pytest.raises(ValueError, match=r"video 'v7' is there twice"):
        VideoWeights([*IDS, "v7"], np.ones(201))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"video 'v1' has the weight"):
        VideoWeights(IDS[:2], np.array([1.0, weight]))


def test_a_file_of_other_columns_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"video_id": ["a"], "score": [1.0]}), tmp_path / "w.parquet")
    with pytest.raises(ValueError, match=r"w.parquet: .*expected the columns video_id and weight, found .*score"):
        VideoWeights.load(tmp_path / "w.parquet")
    (tmp_path / "w.csv").write_text("video_id,weight\na,1\n")
    with pytest.raises(ValueError, match=r"w.csv: no Parquet file of weights"):
        VideoWeights.load(tmp_path / "w.csv")


@pytest.mark.parametrize("row", [{"video_id": None, "weight": 1.0}, {"video_id": "b", "weight": None}])
def test_a_row_without_an_id_or_a_weight_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    pq.write_table(pa.Table.from_pylist([{"video_id": "a", "weight": 1.0}, row]), tmp_path / "w.parquet")
    with pytest.raises(ValueError, match=r"w.parquet: .*expected an id and a weight in each row, found one without"):
        VideoWeights.load(tmp_path / "w.parquet")


def test_boosting_is_the_published_rule() -> None:
    errors = np.array([0.0, 0.1, 0.5, 0.2])
    raw = [math.exp(math.log((1 - 0.2) / 0.2) * error) for error in errors]  # 1, 4^0.1, 4^0.5, 4^0.2
    assert boost(np.ones(4), errors).tolist() == pytest.approx([value / (sum(raw) / 4) for value in raw])


def test_the_mean_error_goes_by_the_weights_that_the_model_was_trained_with() -> None:
    weights, errors = np.array([0.5, 1.5]), np.array([0.0, 0.4])
    raw = [0.5, 1.5 * (0.7 / 0.3) ** 0.4]
    assert boost(weights, errors).tolist() == pytest.approx([value / (sum(raw) / 2) for value in raw])


def test_boosted_weights_have_a_mean_of_one_after_the_largest_were_cut() -> None:
    errors = np.random.default_rng(0).random(1000) ** 4
    weights = boost(np.ones(1000), errors, most=1.2)
    assert weights.mean() == pytest.approx(1)
    raw = ((1 - errors.mean()) / errors.mean()) ** errors
    assert weights.max() / weights.min() == pytest.approx(1.2 / raw.min())


def test_a_model_without_errors_changes_no_weight() -> None:
    assert boost(np.array([0.5, 1.5]), np.zeros(2)).tolist() == [0.5, 1.5]


def test_a_model_that_errs_on_the_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a mean error below 0.5, found 0.6000"):
        boost(np.ones(2), np.array([0.8, 0.4]))


def test_no_video_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no video"):
        boost(np.empty(0), np.empty(0))
