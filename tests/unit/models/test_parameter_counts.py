"""Sizes of the published models, batch-norm statistics included, counted in their TensorFlow graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from yt8m_ray.models import build_model

GATED_MOE = {"name": "moe", "num_mixtures": 2, "prob_gating": "prob", "l2": 1e-6}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "LogisticModel": ({"name": "logistic"}, 4_452_886),
    "NetVLAD1": ({"name": "netvlad", "num_clusters": 256, "hidden_dim": 1024, "head": GATED_MOE}, 321_541_224),
    "NetVLAD2": ({"name": "netvlad", "num_clusters": 192, "hidden_dim": 992, "head": GATED_MOE}, 242_731_144),
    # D V (2M + 1) + V M
    "MoeModel": ({"name": "moe", "num_mixtures": 2}, 1152 * 3862 * 5 + 3862 * 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_as_many_variables_here(name: str) -> None:
    config, expected = PUBLISHED[name]
    with torch.device("meta"):
        model = build_model(config, feature_sizes=(1024, 128), num_classes=3862)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == expected
