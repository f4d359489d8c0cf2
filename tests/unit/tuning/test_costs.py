"""What a configuration costs, against the tensors that an export makes and products counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.quantization.quantize import channel_axes, quantize_state
from yt8m_ray.models import build_model
from yt8m_ray.tuning.costs import measure_costs

FAMILIES = [
    {"name": "moe", "num_mixtures": 2, "low_rank": 16, "prob_gating": "prob"},
    {"name": "netvlad", "num_clusters": 8, "hidden_dim": 16},
    {"name": "lstm"},
    {"name": "nextvlad", "num_clusters": 4, "hidden_dim": 16},
]


def config_of(model: dict[str, Any], **data: Any) -> TrainConfig:
    sizes = {"features": {"rgb": 16, "audio": 8}, "num_classes": 7, "max_frames": 6}
    return TrainConfig.model_validate({"run": {"name": "s"}, "data": sizes | data, "model": model})


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: str(model["name"]))
def test_the_bytes_are_those_of_the_tensors_that_an_export_makes(model: dict[str, Any]) -> None:
    real = build_model(model, feature_sizes=[64, 8], num_classes=1100)
    state = quantize_state(real.state_dict(), channel_axes(real))
    assert any(tensor.dtype == torch.int8 for tensor in state.values())

    costs = measure_costs(config_of(model, features={"rgb": 64, "audio": 8}, num_classes=1100), ["int8_bytes"])

    assert costs == {"int8_bytes": sum(tensor.numel() * tensor.element_size() for tensor in state.values())}


def test_a_linear_model_multiplies_each_value_with_each_class_however_long_the_clip() -> None:
    assert measure_costs(config_of({"name": "logistic"}), ["macs"]) == {"macs": 24 * 7}


def test_the_clip_is_as_long_as_the_data_has_them() -> None:
    config = {"name": "frame_attention", "head": {"name": "logistic"}}
    four, eight, twelve = (measure_costs(config_of(config, max_frames=n), ["macs"])["macs"] for n in (4, 8, 12))

    assert twelve - eight == eight - four > 0


def test_a_video_level_record_is_one_frame() -> None:
    video = {"features": {"mean_rgb": 24}, "max_frames": 300}

    assert measure_costs(config_of({"name": "moe"}, **video), ["macs"]) == measure_costs(
        config_of({"name": "moe"}, **video | {"max_frames": 1}), ["macs"]
    )


def test_the_time_is_measured_where_it_is_asked_for_and_the_threads_stay() -> None:
    before = torch.get_num_threads()

    costs = measure_costs(config_of({"name": "logistic"}), ["macs", "latency_ms"])

    assert set(costs) == {"macs", "latency_ms"}
    assert 0 < costs["latency_ms"] < 1000
    assert torch.get_num_threads() == before


def test_nothing_is_measured_where_nothing_is_asked_for() -> None:
    assert measure_costs(config_of({"name": "logistic"}), []) == {}


def test_a_model_that_cannot_be_built_is_told() -> None:
    config = config_of({"name": "logistic"})
    broken = config.model_copy(update={"data": config.data.model_copy(update={"features": {}})})

    with pytest.raises(ConfigError, match=r"^model: "):
        measure_costs(broken, ["macs"])
