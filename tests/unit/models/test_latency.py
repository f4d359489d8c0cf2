"""How long a model takes, and that measuring it leaves everything as it was."""

from __future__ import annotations

import pytest
import torch

from yt8m_ray.models import Model, build_model
from yt8m_ray.models.cost import clip_latency_ms

SMALL = {
    "logistic": {"name": "logistic"},
    "lstm": {"name": "lstm", "cell_dim": 8},
    "netvlad": {"name": "netvlad", "num_clusters": 4, "hidden_dim": 8},
}


def model(name: str) -> Model:
    return build_model(SMALL[name], feature_sizes=[16, 8], num_classes=7)


@pytest.mark.parametrize("name", list(SMALL))
def test_a_clip_takes_some_time(name: str) -> None:
    assert 0 < clip_latency_ms(model(name), num_frames=6) < 1000


def test_mode_threads_and_weights_stay() -> None:
    measured, num_threads = model("netvlad").train(), torch.get_num_threads()
    before = {name: tensor.clone() for name, tensor in measured.state_dict().items()}

    clip_latency_ms(measured, num_frames=4)

    assert measured.training
    assert torch.get_num_threads() == num_threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in measured.state_dict().items())
