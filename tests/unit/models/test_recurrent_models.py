"""What the recurrent models do beside their published forms (test_against_forms.py compares them with those)."""

from __future__ import annotations

import pytest
import torch

from yt8m_ray.models import build_model


def test_a_clip_longer_than_a_hierarchical_lstm_expects_has_more_blocks() -> None:
    model = build_model(
        {"name": "hierarchical_lstm", "cell_dim": 3, "max_frames": 4, "num_blocks": 2},
        feature_sizes=(2,),
        num_classes=2,
    )
    frames = torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        nine, eight = (model.represent(frames, torch.tensor([length])) for length in (9, 8))
    assert not torch.allclose(nine, eight)


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_every_last_frame_that_is_read_counts(every: int) -> None:
    model = build_model(
        {"name": "hierarchical_lstm", "cell_dim": 3, "max_frames": 20, "num_blocks": 3, "every": every},
        feature_sizes=(2,),
        num_classes=2,
    )
    frames = torch.randn(1, 19, 2, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    frames[1, (18 // every) * every] += 1
    first, second = model.represent(frames, torch.tensor([19, 19]))
    assert not torch.allclose(first, second)


def test_shuffling_is_for_training_alone() -> None:
    torch.manual_seed(0)
    config = {"name": "bidirectional_lstm", "cell_dim": 4, "frame_shuffle": True}
    model = build_model(config, feature_sizes=(3,), num_classes=2)
    frames, num_frames = torch.randn(1, 12, 3), torch.tensor([12])
    assert torch.equal(model.eval()(frames, num_frames), model(frames, num_frames))
    assert not torch.equal(model.train()(frames, num_frames), model(frames, num_frames))
