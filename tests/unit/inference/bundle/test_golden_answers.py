"""Golden answers: a loaded bundle that is not what was written says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.inference.bundle.golden_answers import GoldenAnswers, make_inputs
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.inference.quantization.int8_linear import Int8Linear
from yt8m_ray.topk import TopK

Write = Callable[..., Path]
FRAMES = FeatureSpec({"rgb": 8, "audio": 4}, num_classes=30, max_frames=6)


def test_a_bundle_answers_as_when_it_was_written(write_tiny_bundle: Write) -> None:
    predictor = Predictor.from_path(write_tiny_bundle())

    assert predictor.self_check() == 3
    assert predictor.self_check(tolerance=0) == 3  # the same machine, the same engine: the same bits


def test_a_video_level_bundle_checks_itself_too(write_tiny_bundle: Write) -> None:
    path = write_tiny_bundle(data={"features": {"mean_rgb": 8, "mean_audio": 4}})

    assert Predictor.from_path(path).self_check() == 3


def test_a_checkpoint_has_nothing_to_compare(save_tiny_checkpoint: Write) -> None:
    assert Predictor.from_path(save_tiny_checkpoint()).self_check() == 0


def test_changed_weights_are_told_with_the_video_the_class_and_both_scores(write_tiny_bundle: Write) -> None:
    predictor = Predictor.from_path(write_tiny_bundle())
    with torch.no_grad():
        for layer in predictor.model.modules():
            if isinstance(layer, Int8Linear):
                layer.bias.add_(1)

    with pytest.raises(ValueError, match=r"self check: golden video 0, class \d+ at rank 1: score 0\.\d+ expected"):
        predictor.self_check()


def test_another_normalization_is_noticed(write_tiny_bundle: Write) -> None:
    predictor = dataclasses.replace(Predictor.from_path(write_tiny_bundle()), normalize="none")

    with pytest.raises(ValueError, match="self check"):
        predictor.self_check()


def answers(*scores: float) -> GoldenAnswers:
    """Returns golden answers of one video, classes 0, 1, ... in the order of their scores."""
    best = TopK(torch.arange(len(scores))[None], torch.tensor([scores]))
    return GoldenAnswers(make_inputs(FRAMES, 1), best)


def test_the_tolerance_is_relative_to_the_score() -> None:
    golden, same_order = answers(0.5, 1e-4), torch.tensor([[0, 1, 2]])

    golden.compare(TopK(same_order, torch.tensor([[0.509, 1.015e-4, 0.0]])), tolerance=0.02)
    with pytest.raises(ValueError, match=r"class 0 at rank 1: score 0\.5 expected within 2%, 0\.511 found"):
        golden.compare(TopK(same_order, torch.tensor([[0.511, 1e-4, 0.0]])), tolerance=0.02)
    with pytest.raises(ValueError, match=r"class 1 at rank 2: score 0\.0001 expected within 2%, 0\.00011 found"):
        golden.compare(TopK(same_order, torch.tensor([[0.5, 1.1e-4, 0.0]])), tolerance=0.02)


def test_two_nearly_equal_classes_may_change_places() -> None:
    found = TopK(torch.tensor([[1, 0, 2]]), torch.tensor([[0.5001, 0.5, 0.1]]))

    answers(0.5, 0.4999).compare(found, tolerance=0.02)


def test_a_class_that_was_not_among_the_best_is_noticed() -> None:
    found = TopK(torch.tensor([[2, 0, 1]]), torch.tensor([[0.9, 0.5, 0.4]]))

    with pytest.raises(ValueError, match=r"rank 1: score 0\.5 expected within 2%, 0\.9 found"):
        answers(0.5, 0.4).compare(found, tolerance=0.02)


def test_scores_that_are_no_numbers_are_noticed() -> None:
    found = TopK(torch.tensor([[0, 1, 2]]), torch.full((1, 3), torch.nan))

    with pytest.raises(ValueError, match="nan found"):
        answers(0.5, 0.4).compare(found, tolerance=0.02)


def test_the_videos_are_the_same_each_time_and_of_several_lengths() -> None:
    first, second = make_inputs(FRAMES), make_inputs(FRAMES)

    assert first.num_frames.tolist() == [1, 6, 6]  # 12 and 60 where the model takes so many
    assert np.array_equal(first.frames, second.frames)
    assert first.frames.dtype == np.uint8 and first.frames.std() > 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "expected the tensor 'scores'"),
        ({"frames": torch.zeros(13, 11, dtype=torch.uint8)}, "expected uint8 frames of 12 values, 13 in all"),
        ({"frames": torch.zeros(13, 12)}, r"found float32 \[13, 12\]"),
        ({"scores": torch.zeros(2, 20)}, "expected class ids and scores of 3 videos"),
        ({"scores": torch.zeros(3, 20, 1)}, "expected frames and scores with two axes"),
        ({"num_frames": torch.zeros(3, 1, dtype=torch.int64)}, "expected frames and scores with two axes"),
        ({"num_frames": torch.tensor([1.0, 6.0, 6.0])}, "num_frames: expected torch.int64, found torch.float32"),
        ({"num_frames": torch.tensor([-1, 7, 7])}, "expected 1 to 6 frames a video"),
        ({"class_ids": torch.full((3, 20), 30)}, "expected class ids below 30"),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    path = tmp_path / "golden.safetensors"
    best = TopK(torch.zeros(3, 20, dtype=torch.int64), torch.zeros(3, 20))
    GoldenAnswers(make_inputs(FRAMES), best).save(path)
    tensors = {**load_file(path), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)

    with pytest.raises(CheckpointError, match=message):
        GoldenAnswers.load(path, FRAMES)
