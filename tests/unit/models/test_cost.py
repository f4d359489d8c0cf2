"""What models cost, against numbers worked out by hand and those of the published systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from yt8m_ray.models import Model, build_empty_model, build_model
from yt8m_ray.models.cost import count_macs, num_parameters
from yt8m_ray.models.recurrent import GRU

FEATURE_SIZES = (1024, 128)
HIERARCHICAL_LSTM = {"name": "hierarchical_lstm", "head": {"name": "moe", "num_mixtures": 2}}


def without_storage(
    config: dict[str, Any], *, feature_sizes: Sequence[int] = FEATURE_SIZES, num_classes: int = 3862
) -> Model:
    with torch.device("meta"):
        return build_model(config, feature_sizes=feature_sizes, num_classes=num_classes)


def test_a_logistic_model_multiplies_each_value_with_each_class() -> None:
    assert count_macs(without_storage({"name": "logistic"}), num_frames=1) == 1152 * 3862


def test_a_logistic_model_has_a_weight_for_each_value_and_class_and_a_bias() -> None:
    assert num_parameters(without_storage({"name": "logistic"})) == 1152 * 3862 + 3862


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (HIERARCHICAL_LSTM, 5.778e9 + 0.097e9),  # the teacher: LSTMs and MoE
        (HIERARCHICAL_LSTM | {"every": 10, "num_blocks": 5}, 0.666e9 + 0.097e9),  # its student
    ],
)
def test_the_hierarchical_lstm_costs_what_its_papers_flops_say(config: dict[str, Any], published: float) -> None:
    model = without_storage(config, num_classes=4716)

    assert count_macs(model, num_frames=300) == pytest.approx(published, rel=2e-3)


def test_a_netvlad_costs_its_assignment_its_sum_its_hidden_layer_its_gate_and_its_head() -> None:
    config = {"name": "netvlad", "num_clusters": 256, "hidden_dim": 1024, "head": {"name": "moe", "num_mixtures": 2}}
    descriptors = 1024 * 256 + 128 * 128

    macs = count_macs(without_storage(config), num_frames=300)

    assert macs == 2 * 300 * descriptors + 1024 * descriptors + 1024**2 + 1024 * 3862 * (3 + 2)


@pytest.mark.parametrize("backward", [False, True])
def test_a_grus_products_inside_its_steps_are_counted(backward: bool) -> None:
    name = "bidirectional_gru" if backward else "gru_dbof"
    model = without_storage({"name": name}, feature_sizes=(8, 4), num_classes=5)

    ten, twenty = (count_macs(model, num_frames=num_frames) for num_frames in (10, 20))

    cells = [module for module in model.modules() if isinstance(module, GRU)]
    each_frame = sum(cell.gates_kernel.numel() + cell.candidate_kernel.numel() for cell in cells)
    assert twenty - ten >= 10 * each_frame


def test_a_sampler_saves_the_frames_that_it_leaves_out() -> None:
    config = {"name": "frame_attention", "head": {"name": "logistic"}}
    student = config | {"sampling": {"name": "uniform", "every": 10}}

    head = 2 * count_macs(without_storage(config), num_frames=10) - count_macs(without_storage(config), num_frames=20)

    teacher_frames = count_macs(without_storage(config), num_frames=300) - head
    assert count_macs(without_storage(student), num_frames=300) - head == teacher_frames / 10


def test_counting_leaves_the_model_as_it_is() -> None:
    model = build_model({"name": "netvlad", "num_clusters": 4, "hidden_dim": 6}, feature_sizes=(8, 4), num_classes=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    count_macs(model, num_frames=7)

    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_no_machine_could_hold_is_refused_without_trying() -> None:
    with pytest.raises(ValueError, match="moe: a tensor would be too large"):
        build_empty_model({"name": "moe", "num_mixtures": 10**18}, feature_sizes=FEATURE_SIZES, num_classes=30)
