"""Published models with published weights: outputs and l2 terms, for every model whose variables are known by name.

The recipe of the weights, and where the expected outputs come from: tests/published/golden.py. Seven of the outputs
are printed by TensorFlow (tests/unit/models/test_published_forms.py compares the others' NumPy forms with these).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.published.golden import STORED, published_frames, published_variables
from yt8m_ray.interop.tensorflow import load_published
from yt8m_ray.models import Model, build_model

LOGISTIC = {"name": "logistic"}
GATED_MOE = {"name": "moe", "prob_gating": "prob"}
VLAD: dict[str, Any] = {"num_clusters": 8, "hidden_dim": 6}
BAG: dict[str, Any] = {"num_clusters": 16, "hidden_dim": 6}

CONFIGS: dict[str, dict[str, Any]] = {
    "LogisticModel": LOGISTIC,
    "MoeModel m=2": {"name": "moe"},
    "MoeModel m=3 lowrank=4": {"name": "moe", "num_mixtures": 3, "low_rank": 4},
    "MoeModel m=2 prob-gating(prob)": GATED_MOE,
    "MoeModel m=2 prob-gating(prob) remove_diag": {**GATED_MOE, "prob_gating_remove_diagonal": True},
    "MoeModel m=2 prob-gating(input)": {"name": "moe", "prob_gating": "input"},
    "FrameLevelLogisticModel": {"name": "frame_logistic"},
    "DbofModel relu6 max +Logistic": {"name": "dbof", **BAG, "activation": "relu6", "head": LOGISTIC},
    "DbofModel relu6 average +Logistic": {
        "name": "dbof",
        **BAG,
        "activation": "relu6",
        "pooling": "average",
        "head": LOGISTIC,
    },
    "NetVLADModelLF K=8 H=6 norelu gating MoE prob-gating": {"name": "netvlad", **VLAD, "head": GATED_MOE},
    "NetVLADModelLF K=8 H=6 relu nogating MoE": {"name": "netvlad", **VLAD, "use_relu": True, "gating": False},
    "NetVLADModelLF lightvlad K=8 H=6 norelu gating MoE prob-gating": {
        "name": "light_vlad",
        **VLAD,
        "head": GATED_MOE,
    },
    "NetVLADModelLF K=8 H=6 norelu gating remove_diag Logistic": {
        "name": "netvlad",
        **VLAD,
        "gating_remove_diagonal": True,
        "head": LOGISTIC,
    },
    "NetFVModelLF K=8 H=6 norelu uncoupled gating MoE prob-gating": {
        "name": "netfv",
        **VLAD,
        "use_relu": False,
        "couple_weights": False,
        "gating": True,
        "head": GATED_MOE,
    },
    "NetFVModelLF K=8 H=6 relu coupled(0.01) MoE": {"name": "netfv", **VLAD, "coupling_factor": 0.01},
    "SoftDbofModelLF K=16 H=6 norelu MoE": {"name": "soft_dbof", **BAG, "use_relu": False},
    "SoftDbofModelLF K=16 H=6 norelu maxpool MoE": {"name": "soft_dbof", **BAG, "use_relu": False, "max_pool": True},
    "GatedDbofModelLF K=16 H=6 norelu MoE": {"name": "gated_dbof", **BAG, "use_relu": False},
    "GatedDbofModelLF K=16 H=6 relu fc_dimred MoE": {"name": "gated_dbof", **BAG},
    "GatedDbofModelLF K=16 no fc_dimred MoE": {"name": "gated_dbof", "num_clusters": 16, "hidden_dim": None},
    "LstmModel 2x8 +Logistic": {"name": "lstm", "cell_dim": 8, "num_layers": 2, "head": LOGISTIC},
    "Lstmbidirect 8 +Logistic": {"name": "bidirectional_lstm", "cell_dim": 8, "head": LOGISTIC},
    "GRUbidirect 8 +Logistic": {"name": "bidirectional_gru", "cell_dim": 8, "head": LOGISTIC},
    "GRUbidirect 8 gating MoE prob-gating": {
        "name": "bidirectional_gru",
        "cell_dim": 8,
        "gating": True,
        "head": GATED_MOE,
    },
    "GRUbidirect_branchedBN +Logistic": {"name": "branched_gru", "head": LOGISTIC},
    "attention_frames_v0": {"name": "frame_attention"},
    "G LogisticModel": LOGISTIC,
    "G MoeModel m=2": {"name": "moe"},
    "G FrameLevelLogisticModel": {"name": "frame_logistic"},
    "G DbofModel sigmoid max K=16 H=6 MoE": {"name": "dbof", **BAG, "activation": "sigmoid", "pooling": "max"},
    "G DbofModel relu6 average K=16 H=6 MoE": {"name": "dbof", **BAG, "activation": "relu6", "pooling": "average"},
    "G DbofModel relu6 max nobn K=16 H=6 Logistic": {
        "name": "dbof",
        **BAG,
        "activation": "relu6",
        "batch_norm": False,
        "head": LOGISTIC,
    },
    "G LstmModel 2x8 MoE": {"name": "lstm", "cell_dim": 8, "num_layers": 2},
}
GOLDEN = json.loads(STORED.read_text(encoding="utf-8"))["models"]


def published(title: str) -> Model:
    return build_model(CONFIGS[title], feature_sizes=(1024, 128), num_classes=7).eval()


def probabilities_of(model: Model, mode: str) -> np.ndarray:
    frames, num_frames = published_frames(mode)
    with torch.no_grad():
        return torch.sigmoid(model(torch.from_numpy(frames), torch.from_numpy(num_frames))).double().numpy()


def test_every_model_with_known_variables_is_here() -> None:
    assert CONFIGS.keys() == GOLDEN.keys()


@pytest.mark.parametrize("title", CONFIGS)
def test_a_model_with_published_weights_gives_the_published_outputs(title: str) -> None:
    golden, model = GOLDEN[title], published(title)
    load_published(model, published_variables(title, golden["c"]))
    np.testing.assert_allclose(probabilities_of(model, golden["mode"]), golden["probabilities"], rtol=1e-4)
    assert model.regularization().item() == pytest.approx(golden["regularization"], rel=1e-3)
