"""Where heads start, and how their parts combine, against loops over classes and experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.components import HEADS
from yt8m_ray.models.heads import Head

CONFIGS: dict[str, dict[str, Any]] = {
    "logistic": {"name": "logistic"},
    "moe of 1": {"name": "moe", "num_mixtures": 1},
    "moe of 4": {"name": "moe", "num_mixtures": 4},
    "moe of low rank": {"name": "moe", "low_rank": 2},
    "logit_moe": {"name": "logit_moe"},
    "logit_moe, gates a class": {"name": "logit_moe", "num_mixtures": 2, "per_class": True, "batch_norm": False},
}


def build_head(config: dict[str, Any], *, input_dim: int = 6, num_classes: int = 5) -> Head:
    torch.manual_seed(0)
    return HEADS.build(config, input_dim=input_dim, num_classes=num_classes).eval()


def probabilities_of_nothing(head: Head) -> torch.Tensor:
    with torch.no_grad():
        return torch.sigmoid(head(torch.zeros(1, 6)))[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_class_starts_at_the_initial_probability(name: str) -> None:
    head = build_head(CONFIGS[name] | {"initial_probability": 0.01})
    torch.testing.assert_close(probabilities_of_nothing(head), torch.full((5,), 0.01))


def test_the_initial_probability_allows_for_the_gate_of_the_probabilities() -> None:
    head = build_head({"name": "moe", "prob_gating": "prob", "initial_probability": 0.01})
    torch.testing.assert_close(probabilities_of_nothing(head), torch.full((5,), 0.01), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_class_prior_sets_the_probability_of_each_class(name: str) -> None:
    prior = torch.tensor([0.2, 1e-3, 1e-6, 0.05, 0.4])
    head = build_head(CONFIGS[name])
    head.set_class_prior(prior)
    torch.testing.assert_close(probabilities_of_nothing(head), prior, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "expected"), [("logistic", 0.5), ("moe of 1", 0.25), ("moe of 4", 0.4), ("logit_moe", 0.5)]
)
def test_without_an_initial_probability_biases_start_at_zero_as_published(name: str, expected: float) -> None:
    torch.testing.assert_close(probabilities_of_nothing(build_head(CONFIGS[name])), torch.full((5,), expected))


def test_columns_of_gates_and_experts_are_class_major() -> None:
    head = build_head({"name": "moe", "num_mixtures": 3})
    inputs = torch.randn(2, 6)
    with torch.no_grad():
        gates, experts = head.gates(inputs).double().numpy(), head.experts(inputs).double().numpy()
        probabilities = torch.sigmoid(head(inputs)).numpy()
    for row in range(2):
        for class_id in range(5):
            weights = np.exp(gates[row, class_id * 4 : class_id * 4 + 4])
            answers = 1 / (1 + np.exp(-experts[row, class_id * 3 : class_id * 3 + 3]))
            assert probabilities[row, class_id] == pytest.approx(
                (weights[:3] * answers).sum() / weights.sum(), rel=1e-5
            )


@pytest.mark.parametrize("per_class", [False, True], ids=["gates for all", "gates a class"])
def test_logits_are_mixed_with_a_dummy_expert_of_logit_0(per_class: bool) -> None:
    head = build_head({"name": "logit_moe", "num_mixtures": 3, "per_class": per_class})
    inputs = torch.randn(2, 6)
    with torch.no_grad():
        for bn in (head.expert_bn, head.gate_bn):
            bn.moving_mean.normal_()
            bn.moving_variance.uniform_(0.5, 2)
        gates = head.gates(head.gate_bn(inputs)).double().numpy()
        experts = head.experts(head.expert_bn(inputs)).double().numpy()
        logits = head(inputs).numpy()
    for row in range(2):
        for class_id in range(5):
            first_gate = class_id * 4 if per_class else 0
            weights = np.exp(gates[row, first_gate : first_gate + 4])
            mixed = (weights[:3] * experts[row, class_id * 3 : class_id * 3 + 3]).sum() / weights.sum()
            assert logits[row, class_id] == pytest.approx(mixed, rel=1e-4, abs=1e-6)


def test_dropout_is_drawn_for_experts_and_gates_apart_and_only_in_training() -> None:
    head = build_head({"name": "logit_moe", "batch_norm": False})
    inputs = torch.ones(1, 6)
    assert torch.equal(head(inputs), head(inputs))
    seen = []
    head.experts.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    head.gates.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    head.train()(torch.ones(1, 6))
    assert not torch.equal(seen[0], seen[1])


def test_a_probability_gate_without_its_diagonal_ignores_the_classes_own_probability() -> None:
    head = build_head({"name": "moe", "prob_gating": "prob", "prob_gating_remove_diagonal": True})
    ungated = build_head({"name": "moe"})
    ungated.load_state_dict(head.state_dict(), strict=False)
    inputs = torch.randn(3, 6)
    with torch.no_grad():
        p = torch.sigmoid(ungated(inputs)).double().numpy()
        gated = torch.sigmoid(head(inputs)).numpy()
    weights = head.prob_gate.weight.detach().double().numpy().T  # [input, output], as TensorFlow has it
    gate = (p @ weights - np.diag(weights) * p) / np.sqrt(1 + 1e-3)
    np.testing.assert_allclose(gated, p / (1 + np.exp(-gate)), rtol=1e-5)


def test_low_rank_gates_are_regularized_in_both_factors() -> None:
    head = build_head({"name": "moe", "low_rank": 2, "l2": 0.1})
    weights = [head.gate_projection.weight, head.gates.weight, head.experts.weight]
    expected = 0.1 * 0.5 * sum(float((weight.detach().double() ** 2).sum()) for weight in weights)
    assert float(head.regularization().detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("includes_biases", [False, True])
def test_biases_are_in_the_l2_term_where_configured(includes_biases: bool) -> None:
    head = build_head({"name": "logistic", "l2": 0.1, "l2_on_biases": includes_biases})
    head.set_class_prior(torch.full((5,), 0.2))
    regularized = [head.linear.weight] + [head.linear.bias] * includes_biases
    expected = 0.1 * 0.5 * sum(float((weight.detach().double() ** 2).sum()) for weight in regularized)
    assert float(head.regularization().detach()) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_the_l2_term_is_the_weight_times_l2_under_autocast_too() -> None:
    head = build_head({"name": "logistic", "l2": 0.25})
    with torch.autocast("cpu", torch.bfloat16):
        term = head.regularization()
    term.backward()
    weight = head.linear.weight.detach()
    torch.testing.assert_close(term.detach(), 0.25 * 0.5 * (weight**2).sum())
    torch.testing.assert_close(head.linear.weight.grad, 0.25 * weight)


def test_an_initial_probability_that_the_dummy_expert_rules_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"initial_probability must lie below 0\.6667.*found 0\.7"):
        HEADS.parse({"name": "moe", "num_mixtures": 2, "initial_probability": 0.7})


def test_removing_the_diagonal_of_no_gate_is_refused() -> None:
    with pytest.raises(
        ValueError, match="prob_gating_remove_diagonal needs prob_gating: prob, found prob_gating: input"
    ):
        HEADS.parse({"name": "moe", "prob_gating": "input", "prob_gating_remove_diagonal": True})
