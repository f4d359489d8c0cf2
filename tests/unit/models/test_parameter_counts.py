"""Sizes of the published models: counted in their TensorFlow graphs, batch-norm statistics included, or in torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.inference.quantization.quantize import channel_axes, stored_bytes
from yt8m_ray.models import Model, build_model

GATED_MOE = {"name": "moe", "num_mixtures": 2, "prob_gating": "prob"}
LOGISTIC = {"name": "logistic"}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "LogisticModel": ({"name": "logistic"}, 4_452_886),
    "NetVLAD1": ({"name": "netvlad", "num_clusters": 256, "hidden_dim": 1024, "head": GATED_MOE}, 321_541_224),
    "NetVLAD2": ({"name": "netvlad", "num_clusters": 192, "hidden_dim": 992, "head": GATED_MOE}, 242_731_144),
    "LightVLAD": ({"name": "light_vlad", "num_clusters": 256, "hidden_dim": 1024, "head": GATED_MOE}, 321_262_696),
    "FVNet": (
        {
            "name": "netfv",
            "num_clusters": 96,
            "hidden_dim": 1540,
            "use_relu": False,
            "couple_weights": False,
            "gating": True,
            "head": GATED_MOE,
        },
        369_073_284,
    ),
    "DBoF1": ({"name": "gated_dbof", "num_clusters": 4096, "hidden_dim": 1024, "use_relu": False}, 37_188_652),
    "DBoF2": ({"name": "gated_dbof", "num_clusters": 6144, "hidden_dim": 1536, "use_relu": False}, 59_315_756),
    "DBoF3": ({"name": "gated_dbof", "num_clusters": 3684, "hidden_dim": 920, "use_relu": False}, 32_998_372),
    "SoftDbof": ({"name": "soft_dbof", "num_clusters": 8000, "hidden_dim": 1024, "use_relu": False}, 37_358_796),
    "DbofModel": ({"name": "dbof", "num_clusters": 8192, "hidden_dim": 1024, "head": LOGISTIC}, 21_825_814),
    "attention_frames_v0": ({"name": "frame_attention"}, 11_046_806),
    "RNN1 and RNN2": ({"name": "bidirectional_lstm", "head": LOGISTIC}, 19_171_094),
    "RNN3": ({"name": "bidirectional_gru", "head": LOGISTIC}, 15_367_958),
    "GRUbidirect, gated": ({"name": "bidirectional_gru", "gating": True, "head": GATED_MOE}, 47_170_664),
    "GRUbidirect_branchedBN": ({"name": "branched_gru", "head": LOGISTIC}, 16_716_054),
    # D V (2M + 1) + V M
    "MoeModel": ({"name": "moe", "num_mixtures": 2}, 1152 * 3862 * 5 + 3862 * 2),
}

SEGMENT_CLASSES = 1000
PUBLISHED_PARAMETERS: dict[str, tuple[dict[str, Any], int]] = {
    "dbof-3": ({"name": "gated_dbof_2019"}, 36_043_685),
    "dbof-1": ({"name": "gated_dbof_2019", "head": {"name": "logit_moe", "num_mixtures": 5}}, 38_094_734),
    "nextvlad-2": ({"name": "nextvlad_2019"}, 32_570_757),
    "nxvlad-1": ({"name": "nextvlad_2019", "groups": 32}, 25_909_925),
}
PUBLISHED_MILLIONS: dict[str, tuple[dict[str, Any], int]] = {
    "NeXtVLAD 8G .5 128K 2048H": ({"name": "nextvlad"}, 89),
    "NeXtVLAD single, of the mixture": ({"name": "nextvlad", "num_clusters": 112, "gating_reduction": 16}, 79),
    "3-mix T=3": ({"name": "mix_nextvlad"}, 3 * 79),  # three times the rounded figure
}


def build_empty(config: dict[str, Any], num_classes: int) -> Model:
    with torch.device("meta"):
        return build_model(config, feature_sizes=(1024, 128), num_classes=num_classes)


# Of You8M and Efficient Video Classification, with the 4716 classes of 2017. You8M's are given in units of 10,000, and
# to the last one by 4 h (in + h + 1) an LSTM, 3 h (in + h + 1) a GRU and 4716 (5 h + 2) the mixture of two experts.
LSTMS_OF_1200 = 2 * 4 * 600 * (1152 + 600 + 1) + 4 * 1200 * (1200 + 1200 + 1)
GRUS_OF_1250 = 2 * 3 * 625 * (1152 + 625 + 1) + 3 * 1250 * (1250 + 1250 + 1)
PUBLISHED_2017: dict[str, tuple[dict[str, Any], int]] = {
    "You8M's LSTM": ({"name": "bidirectional_lstm", "cell_dim": 1200}, LSTMS_OF_1200 + 4716 * (5 * 1200 + 2)),
    "You8M's GRU": ({"name": "bidirectional_gru", "cell_dim": 1250}, GRUS_OF_1250 + 4716 * (5 * 1250 + 2)),
    "the hierarchical LSTM's teacher": ({"name": "hierarchical_lstm"}, 46_678_016 + 96_593_112),
    "the hierarchical LSTM's student": (
        {"name": "hierarchical_lstm", "every": 10, "num_blocks": 5},
        46_678_016 + 96_593_112,
    ),
}


def num_variables(config: dict[str, Any], num_classes: int) -> int:
    return sum(tensor.numel() for tensor in build_empty(config, num_classes).state_dict().values())


def num_parameters(config: dict[str, Any], num_classes: int) -> int:
    return sum(parameter.numel() for parameter in build_empty(config, num_classes).parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_as_many_variables_here(name: str) -> None:
    config, expected = PUBLISHED[name]
    assert num_variables(config, 3862) == expected


@pytest.mark.parametrize("name", PUBLISHED_2017)
def test_a_published_model_of_2017_has_as_many_variables_here(name: str) -> None:
    config, expected = PUBLISHED_2017[name]
    assert num_variables(config, 4716) == expected


def test_the_recurrent_models_of_you8m_have_the_published_sizes() -> None:
    sizes = [round(PUBLISHED_2017[name][1] / 1e4) for name in ("You8M's LSTM", "You8M's GRU")]
    assert sizes == [4824, 4553]


# The reference gives these in millions, for the 4716 classes and 2305 statistics of 2017.
MONN: dict[str, tuple[tuple[int, ...], int, float]] = {
    "MoNN2Lw": ((13830, 6915), 3, 268.9),
    "MoNN2Lw of two experts": ((13830, 6915), 2, 225.4),
    "MoNN3L": ((4096,) * 3, 3, 144.5),
    "MoNN3Lw": ((18440, 2305, 9220), 3, 280.2),
    "MoNN4Ln": ((2048,) * 4, 3, 89.8),
}


@pytest.mark.parametrize("name", MONN)
def test_a_mixture_of_networks_has_its_published_size(name: str) -> None:
    hidden_dims, num_mixtures, millions = MONN[name]
    config = {"name": "monn", "hidden_dims": hidden_dims, "num_mixtures": num_mixtures}
    assert round(num_variables(config, 4716) / 1e6, 1) == millions


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_a_model_of_the_7th_place_of_2019_has_as_many_parameters_here(name: str) -> None:
    config, expected = PUBLISHED_PARAMETERS[name]
    assert num_parameters(config, SEGMENT_CLASSES) == expected


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_a_nextvlad_has_as_many_million_parameters_as_its_authors_state(name: str) -> None:
    config, expected = PUBLISHED_MILLIONS[name]
    assert num_parameters(config, 3862) / 1e6 == pytest.approx(expected, rel=0.006)


def test_a_nextvlad_layer_and_its_hidden_weights_have_the_size_of_the_published_formula() -> None:
    # lambda N (N + G + K (G + (H + 1) / G)), without biases and batch norms
    expansion, size, groups, num_clusters, hidden_dim = 2, 1024, 8, 128, 2048
    with torch.device("meta"):
        model = build_model({"name": "nextvlad"}, feature_sizes=(size,), num_classes=1)
    encoder = model.encoder
    vlad = encoder.vlads[0]
    weights = [
        vlad.widen.weight,
        vlad.attention.weight,
        vlad.cluster_weights.weight,
        vlad.centers,
        encoder.hidden.weight,
    ]
    expected = expansion * size * (size + groups + num_clusters * (groups + (hidden_dim + 1) / groups))
    assert sum(weight.numel() for weight in weights) == expected
    assert expected == pytest.approx(71.35e6, rel=1e-3)


UINT8_MEGABYTES = {  # of the nine models of the 2018 winner's competition entry
    "NetVLAD1": 321.8,
    "NetVLAD2": 242.9,
    "FVNet": 369.2,
    "DBoF1": 37.3,
    "DBoF2": 59.5,
    "DBoF3": 33.1,
    "RNN1 and RNN2": 19.2,
    "RNN3": 15.4,
}


@pytest.mark.parametrize("name", UINT8_MEGABYTES)
def test_codebooks_have_the_published_bytes(name: str) -> None:
    model = build_empty(PUBLISHED[name][0], 3862)

    counted = stored_bytes(model.state_dict(), channel_axes(model), TransformConfig(name="uniform"))

    assert counted / 1e6 == pytest.approx(UINT8_MEGABYTES[name], rel=0.01)
