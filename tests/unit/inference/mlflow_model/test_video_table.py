"""Rows of a table -> videos: what a client of MLflow may send, and what it is told."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.mlflow_model.video_table import answer_rows, read_videos
from yt8m_ray.topk import TopK

FRAMES = FeatureSpec({"rgb": 8, "audio": 4}, num_classes=30, max_frames=6)
MEANS = FeatureSpec({"mean_rgb": 8, "mean_audio": 4}, num_classes=30, max_frames=6)
GENERATOR = np.random.default_rng(4)
RGB = GENERATOR.integers(0, 256, (5, 8), np.uint8)
AUDIO = GENERATOR.integers(0, 256, (5, 4), np.uint8)


def text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def frame_record(**changes: Any) -> dict[str, Any]:
    return {"video_id": "abcd", "rgb": text(RGB), "audio": text(AUDIO), **changes}


def test_base64_text_is_the_frames_of_all_features_side_by_side() -> None:
    video_ids, (row,) = read_videos([frame_record()], FRAMES)

    assert video_ids == ["abcd"]
    assert np.array_equal(row.frames, np.concatenate([RGB, AUDIO], axis=1))


@pytest.mark.parametrize("missing", [{}, {"video_id": None}, {"video_id": math.nan}])
def test_a_video_needs_no_id(missing: dict[str, Any]) -> None:
    record = {key: value for key, value in frame_record().items() if key != "video_id"}

    assert read_videos([{**record, **missing}], FRAMES)[0] == [""]


def test_means_are_lists_of_numbers() -> None:
    record = {"mean_rgb": np.linspace(-1, 1, 8), "mean_audio": [0, 1, 2, 3], "rgb": None, "audio": math.nan}

    _, (row,) = read_videos([record], MEANS)

    assert row.frames.tolist() == [[*np.linspace(-1, 1, 8).astype(np.float32).tolist(), 0, 1, 2, 3]]


def test_a_video_level_model_takes_the_mean_of_frames() -> None:
    _, (row,) = read_videos([frame_record(mean_rgb=None)], MEANS)

    expected = (np.concatenate([RGB, AUDIO], axis=1) * (4 / 255) + 4 / 512 - 2).mean(axis=0)
    assert row.frames[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (FRAMES, {"rgb": None}, "row 1: this model needs the frames rgb; found audio"),
        (FRAMES, {"rgb": "%%%"}, r"row 1\.rgb: not base64"),
        (FRAMES, {"rgb": "A" * 9}, r"row 1\.rgb: not base64"),
        (FRAMES, {"rgb": [1, 2]}, r"row 1\.rgb: expected a multiple of 8 bytes \(8 a frame\), found 2"),
        (FRAMES, {"rgb": ""}, r"row 1\.rgb: expected 1 to 6 frames, found 0"),
        (FRAMES, {"rgb": text(RGB[:, :7])}, r"row 1\.rgb: expected a multiple of 8 bytes \(8 a frame\), found 35"),
        (FRAMES, {"rgb": text(np.zeros((7, 8), np.uint8))}, r"row 1\.rgb: expected 1 to 6 frames, found 7 or more"),
        (FRAMES, {"audio": text(AUDIO[:4])}, "row 1: all features must have the same number of frames"),
        (MEANS, {"rgb": None}, "row 1: this model needs mean_rgb, or the frames rgb to average; found audio"),
        (MEANS, {"mean_rgb": [0.0] * 7}, "row 1: mean_rgb: "),
        (MEANS, {"mean_rgb": [1e39] * 8}, "row 1: mean_rgb: value 0 of 8 is inf, not a finite number"),
        (MEANS, {"mean_rgb": [0.0] * 7 + [math.nan]}, "row 1: mean_rgb: value 7 of 8 is nan, not a finite number"),
        (MEANS, {"mean_rgb": ["x"] * 8}, r"row 1\.mean_rgb: expected a list of numbers"),
        (MEANS, {"mean_rgb": 3.0}, r"row 1\.mean_rgb: expected a list of numbers"),
    ],
)
def test_what_does_not_fit_is_named_with_its_row_and_column(
    spec: FeatureSpec, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read_videos([frame_record(), frame_record(**change)], spec)


def test_an_answer_has_ids_names_and_scores_in_one_order() -> None:
    best = TopK(torch.tensor([[2, 0]]), torch.tensor([[0.75, 0.5]]))

    (row,) = answer_rows(["abcd"], best, Vocabulary.for_num_classes(30))

    assert row == {"video_id": "abcd", "class_ids": [2, 0], "names": ["Vehicle", "Game"], "scores": [0.75, 0.5]}
