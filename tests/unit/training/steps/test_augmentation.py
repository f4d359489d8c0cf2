from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.config.data import AugmentationConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.schema import Batch
from yt8m_ray.training.steps.augmentation import augment

LONGEST = 8


def batch_of(num_frames: list[int], *, complete: bool = True) -> Batch:
    """Frame t of video v is [v + 1, t + 1]; video v has label v and weight v + 1."""
    count = torch.tensor(num_frames, dtype=torch.int64)
    times = torch.arange(LONGEST)
    videos = torch.arange(len(num_frames))
    is_real = times < count.unsqueeze(1)
    frames = torch.stack(torch.broadcast_tensors(videos[:, None] + 1.0, times[None] + 1.0), dim=2)
    labels = torch.eye(max(len(num_frames), 1))[: len(num_frames)]
    return Batch(
        frames * is_real.unsqueeze(2),
        count,
        labels if complete else None,
        tuple(f"v{index}" for index in range(len(num_frames))),
        soft_labels=labels * 0.5 if complete else None,
        weights=videos + 1.0 if complete else None,
    )


def times_of(batch: Batch, video: int) -> list[int]:
    return (batch.frames[video, : int(batch.num_frames[video]), 1] - 1).long().tolist()


def many(config: dict[str, Any], num_frames: int, *, count: int = 2000) -> list[list[int]]:
    torch.manual_seed(0)
    batch = augment(batch_of([num_frames] * count), AugmentationConfig.model_validate(config))
    return [times_of(batch, video) for video in range(count)]


ALL = AugmentationConfig(mixup_alpha=0.4, frame_dropout=0.5, min_crop=0.3)


def test_without_augmentation_the_batch_is_the_same_object() -> None:
    batch = batch_of([3, 5])
    assert augment(batch, AugmentationConfig()) is batch


def test_no_tensor_of_the_given_batch_is_changed() -> None:
    batch, same = batch_of([3, 8, 1]), batch_of([3, 8, 1])
    torch.manual_seed(0)
    augment(batch, ALL)
    for field in dataclasses.fields(Batch):
        before, after = getattr(same, field.name), getattr(batch, field.name)
        assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


def test_a_crop_is_a_stretch_of_consecutive_frames_of_any_length_from_the_least_on() -> None:
    crops = many({"min_crop": 0.5}, 6)
    assert all(crop == list(range(crop[0], crop[0] + len(crop))) for crop in crops)
    assert {len(crop) for crop in crops} == {4, 5, 6}  # ceil of 3 exactly has no probability
    assert {(crop[0], len(crop)) for crop in crops} >= {(0, 4), (1, 4), (2, 4), (0, 5), (1, 5), (0, 6)}


def test_each_frame_is_dropped_with_the_given_probability_and_the_others_keep_their_order() -> None:
    clips = many({"frame_dropout": 0.25}, LONGEST)
    assert all(clip == sorted(clip) for clip in clips)
    kept = np.bincount(np.concatenate(clips), minlength=LONGEST) / len(clips)
    assert kept.tolist() == pytest.approx([0.75] * LONGEST, abs=0.04)  # 4 standard deviations


def test_one_frame_stays_whatever_is_dropped() -> None:
    clips = many({"frame_dropout": 0.999}, 4)
    assert {len(clip) for clip in clips} == {1}
    assert {clip[0] for clip in clips} == {0, 1, 2, 3}


def test_frames_behind_the_end_are_exactly_zero() -> None:
    torch.manual_seed(1)
    batch = augment(batch_of([8, 3, 1, 0] * 50), AugmentationConfig(frame_dropout=0.5, min_crop=0.4))
    is_padding = torch.arange(LONGEST) >= batch.num_frames.unsqueeze(1)
    assert (batch.frames[is_padding] == 0).all()
    assert (batch.frames[~is_padding] != 0).all()


def test_a_clip_of_no_frames_stays_one() -> None:
    batch = augment(batch_of([0, 0, 4]), AugmentationConfig(frame_dropout=0.5, min_crop=0.4))
    assert batch.num_frames.tolist()[:2] == [0, 0]


def test_a_mixture_is_at_least_half_of_its_own_video_in_frames_labels_scores_and_weight() -> None:
    torch.manual_seed(9)
    before = batch_of([3, 8, 5, 1])
    after = augment(before, AugmentationConfig(mixup_alpha=0.4))
    assert before.labels is not None and after.labels is not None
    assert after.soft_labels is not None and after.weights is not None
    shares = after.labels.diagonal().clone()
    assert ((shares >= 0.5) & (shares <= 1)).all()
    others = after.labels.clone().fill_diagonal_(0).argmax(dim=1)
    others = torch.where(shares == 1, torch.arange(4), others)
    assert (shares < 1).all()
    expected = torch.stack(
        [
            share * before.frames[video] + (1 - share) * before.frames[other]
            for video, (share, other) in enumerate(zip(shares, others.tolist(), strict=True))
        ]
    )
    assert torch.allclose(after.frames, expected)
    assert after.num_frames.tolist() == torch.maximum(before.num_frames, before.num_frames[others]).tolist()
    assert torch.allclose(after.soft_labels.diagonal(), shares / 2)
    assert torch.allclose(after.weights, shares * torch.arange(1, 5) + (1 - shares) * (others + 1))


@pytest.mark.parametrize("num_frames", [[], [5], [0]])
def test_batches_of_no_video_and_of_one_are_unharmed(num_frames: list[int]) -> None:
    before = batch_of(num_frames)
    after = augment(before, AugmentationConfig(mixup_alpha=0.4, frame_dropout=0.1, min_crop=0.9))
    assert len(after) == len(before)
    assert after.frames.shape == before.frames.shape
    assert after.frames.isfinite().all()
    assert after.labels is before.labels


def test_a_batch_without_labels_has_none_afterwards() -> None:
    after = augment(batch_of([3, 4], complete=False), ALL)
    assert (after.labels, after.soft_labels, after.weights) == (None, None, None)


def test_the_same_seed_gives_the_same_batch() -> None:
    batches = []
    for _ in range(2):
        torch.manual_seed(5)
        batches.append(augment(batch_of([3, 8, 5]), ALL))
    assert torch.equal(batches[0].frames, batches[1].frames)


@pytest.mark.parametrize(("key", "value"), [("frame_dropout", 0.1), ("min_crop", 0.5)])
def test_records_of_one_frame_have_none_to_drop(key: str, value: float) -> None:
    document: dict[str, Any] = {"run": {"name": "x"}, "model": {"name": "logistic"}, "augmentation": {key: value}}

    with pytest.raises(ValueError, match=rf"augmentation\.{key}: a video-level record has one frame"):
        TrainConfig.model_validate(document)

    assert TrainConfig.model_validate({**document, "data": {"features": {"rgb": 8}}})
