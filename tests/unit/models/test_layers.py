"""Pooling, batch normalization and mixtures in logits, against NumPy in float64 and TensorFlow's printed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yt8m_ray.models.layers import (
    BatchNorm,
    ContextGating,
    gated_logits,
    glorot_linear,
    kaiming_linear,
    l2_normalize,
    masked_mean,
    mixture_logits,
    normal_linear,
    set_batch_norm_updates,
    variance_scaling_linear,
)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def test_the_masked_mean_is_over_real_frames_and_zero_without_any() -> None:
    frames = torch.tensor([[[1.0], [3.0], [99.0]], [[5.0], [7.0], [9.0]], [[1.0], [1.0], [1.0]]])
    assert masked_mean(frames, torch.tensor([2, 3, 0])).tolist() == [[2.0], [7.0], [0.0]]


def test_l2_normalization_keeps_zeros_and_divides_small_norms_by_the_published_bound() -> None:
    inputs = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-8, 0.0]])
    torch.testing.assert_close(l2_normalize(inputs, dim=1), torch.tensor([[0.6, 0.8], [0.0, 0.0], [1e-2, 0.0]]))


def test_fully_connected_layers_start_glorot_uniform_with_zero_biases() -> None:
    torch.manual_seed(0)
    linear = glorot_linear(300, 100)
    bound = (6 / 400) ** 0.5
    assert float(linear.weight.detach().abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(linear.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not linear.bias.any()


def test_normal_layers_start_with_the_given_deviations() -> None:
    torch.manual_seed(0)
    linear = normal_linear(300, 200, std=0.3, bias_std=0.01)
    assert float(linear.weight.detach().std()) == pytest.approx(0.3, rel=0.02)
    assert float(linear.weight.detach().abs().max()) > 3 * 0.3  # not truncated
    assert float(linear.bias.detach().std()) == pytest.approx(0.01, rel=0.2)


def test_kaiming_layers_start_normal_with_the_gain_of_relu_and_zero_biases() -> None:
    torch.manual_seed(0)
    linear = kaiming_linear(400, 200)
    assert float(linear.weight.detach().std()) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert float(linear.weight.detach().abs().max()) > 3 * (2 / 400) ** 0.5
    assert not linear.bias.any()


def test_scaled_layers_start_normal_truncated_at_two_deviations() -> None:
    torch.manual_seed(0)
    weights = variance_scaling_linear(400, 200, bias=False).weight.detach()
    std = (1.3 * 2 / 400) ** 0.5
    assert float(weights.abs().max()) == pytest.approx(2 * std, rel=1e-2)
    # A normal distribution cut at two deviations keeps 0.7737 of its variance: the 1.3 makes up for it.
    assert float(weights.var()) == pytest.approx(0.7737 * std**2, rel=0.02)


def test_the_epsilon_of_a_batch_norm_can_be_torchs() -> None:
    inputs = 1e-3 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.BatchNorm1d(3)(inputs)
    torch.testing.assert_close(BatchNorm(3, epsilon=1e-5)(inputs), expected, rtol=1e-4, atol=1e-5)


def test_moving_statistics_of_rank_2_equal_the_published_ones() -> None:
    inputs = torch.from_numpy(np.random.RandomState(3).randn(4, 3)).float()
    layer = BatchNorm(3)
    layer(inputs)
    np.testing.assert_allclose(layer.moving_variance, [1.0012685, 0.9995311, 0.99927825], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [-0.00015871, -0.00044544, 0.00014564], atol=1e-8)


def test_moving_variance_of_rank_3_equals_the_published_biased_one() -> None:
    inputs = torch.from_numpy(np.random.RandomState(3).randn(2, 2, 3)).float()
    layer = BatchNorm(3, unbiased_moving_variance=False)
    layer(inputs)
    np.testing.assert_allclose(layer.moving_variance, [1.0007014, 0.9993983, 0.9992087], rtol=1e-6)


def test_moving_statistics_forget_their_start_within_a_few_steps() -> None:
    inputs = torch.tensor([[100.0], [104.0]])
    layer = BatchNorm(1, unbiased_moving_variance=False)
    set_batch_norm_updates(layer, 0)
    left = 1.0  # of the start
    for n in range(20):
        layer(inputs)
        left *= 1 - 9 / (10 + n)
    assert layer.moving_mean.item() == pytest.approx(102 * (1 - left), rel=1e-6)
    assert layer.moving_variance.item() == pytest.approx(4 * (1 - left) + left, rel=1e-6)


def test_loaded_moving_statistics_follow_with_the_published_share() -> None:
    layer = BatchNorm(1)
    set_batch_norm_updates(layer, 0)
    layer.load_state_dict(BatchNorm(1).state_dict())
    layer(torch.tensor([[100.0], [104.0]]))
    assert layer.moving_mean.item() == pytest.approx(0.102, rel=1e-6)


def test_a_continued_run_goes_on_warming_up_where_it_was() -> None:
    inputs = torch.randn(12, 4, 1, generator=torch.Generator().manual_seed(0))
    whole, first = BatchNorm(1), BatchNorm(1)
    for layer in (whole, first):
        set_batch_norm_updates(layer, 0)
    for batch in inputs:
        whole(batch)
    for batch in inputs[:5]:
        first(batch)
    second = BatchNorm(1)
    second.load_state_dict(first.state_dict())
    set_batch_norm_updates(second, 5)
    for batch in inputs[5:]:
        second(batch)
    assert torch.equal(second.moving_mean, whole.moving_mean)


def test_training_normalizes_by_the_biased_statistics_of_the_batch() -> None:
    inputs = np.random.RandomState(0).randn(5, 2) * 3 + 7
    layer = BatchNorm(2)
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([2.0, 0.5]))
        layer.beta.copy_(torch.tensor([1.0, -1.0]))
    expected = (inputs - inputs.mean(0)) / np.sqrt(inputs.var(0) + 1e-3) * [2.0, 0.5] + [1.0, -1.0]
    np.testing.assert_allclose(layer(torch.from_numpy(inputs).float()).detach(), expected, rtol=1e-5)


def test_eval_mode_normalizes_by_the_moving_statistics() -> None:
    layer = BatchNorm(1).eval()
    layer.moving_mean.fill_(2.0)
    layer.moving_variance.fill_(4.0)
    assert float(layer(torch.tensor([[6.0]])).detach()) == pytest.approx(4 / np.sqrt(4.001))


def test_masked_rows_count_in_no_statistic() -> None:
    inputs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    masked, plain = BatchNorm(4, momentum=0.5), BatchNorm(4, momentum=0.5)
    torch.testing.assert_close(masked(inputs, mask)[mask], plain(inputs[mask]))
    torch.testing.assert_close(masked.moving_mean, plain.moving_mean)
    torch.testing.assert_close(masked.moving_variance, plain.moving_variance)


def test_the_variance_keeps_its_digits_where_the_mean_is_large() -> None:
    values = np.random.RandomState(0).randn(1000, 1)
    layer = BatchNorm(1, momentum=1.0, unbiased_moving_variance=False)
    layer(torch.from_numpy(values + 1000).float())
    assert float(layer.moving_variance) == pytest.approx(values.var(), rel=1e-3)


def test_gradients_of_batch_normalization_equal_torchs() -> None:
    inputs = torch.randn(6, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    (BatchNorm(3)(ours) * weights).sum().backward()
    (torch.nn.BatchNorm1d(3, eps=1e-3)(theirs) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_context_gating_without_its_diagonal_ignores_a_units_own_value() -> None:
    gating = ContextGating(2, remove_diagonal=True, batch_norm=False, batch_norm_momentum=0.1)
    with torch.no_grad():
        gating.gate.weight.copy_(torch.tensor([[5.0, 2.0], [3.0, 7.0]]))  # [output, input]
        gating.gate.bias.zero_()
        gated = gating(torch.tensor([[0.5, -1.0]]))
    np.testing.assert_allclose(gated[0], [0.5 * sigmoid(-2.0), -1.0 * sigmoid(1.5)], rtol=1e-6)


@pytest.mark.parametrize("has_dummy", [True, False], ids=["dummy expert", "experts only"])
def test_a_mixture_has_the_probability_of_its_experts_by_gate(has_dummy: bool) -> None:
    random = np.random.RandomState(0)
    experts = random.randn(4, 5, 3) * 3
    gates = random.rand(4, 5, 3 + has_dummy)
    gates /= gates.sum(axis=-1, keepdims=True)
    expected = (gates[..., :3] * sigmoid(experts)).sum(axis=-1)
    logits = mixture_logits(torch.from_numpy(np.log(gates)), torch.from_numpy(experts))
    np.testing.assert_allclose(torch.sigmoid(logits), expected, rtol=1e-5)


def test_a_common_factor_of_the_gates_cancels() -> None:
    gates, experts = torch.randn(2, 4), torch.randn(2, 3)
    torch.testing.assert_close(mixture_logits(gates + 11.0, experts), mixture_logits(gates, experts))


def test_constant_gates_are_shared_by_videos_and_classes_and_zero_switches_an_expert_off() -> None:
    experts = torch.randn(2, 5, 3)
    logits = mixture_logits(torch.log(torch.tensor([0.25, 0.75, 0.0])), experts)
    expected = 0.25 * torch.sigmoid(experts[..., 0]) + 0.75 * torch.sigmoid(experts[..., 1])
    torch.testing.assert_close(torch.sigmoid(logits), expected)


def test_experts_that_are_switched_off_get_no_gradient() -> None:
    experts = torch.randn(4, 3, requires_grad=True)
    mixture_logits(torch.log(torch.tensor([0.0, 0.0, 1.0])), experts).sum().backward()
    assert experts.grad is not None
    torch.testing.assert_close(experts.grad, torch.tensor([0.0, 0.0, 1.0]).expand(4, 3))


def test_a_mixture_of_one_expert_is_that_expert_at_any_logit() -> None:
    experts = torch.tensor([[-1e30], [-1e4], [-80.0], [0.0], [80.0], [1e4], [1e30]])
    torch.testing.assert_close(mixture_logits(torch.zeros(1), experts), experts[:, 0])


def test_tiny_probabilities_keep_their_digits() -> None:
    # p = (e^-60 + e^-62) / 3 in logits, where 1 - p is 1 to every digit of float32 or float64.
    logits = mixture_logits(torch.zeros(3), torch.tensor([-60.0, -62.0]))
    assert float(logits) == pytest.approx(np.log((np.exp(-60.0) + np.exp(-62.0)) / 3), rel=1e-6)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_mixtures_of_extreme_logits_are_finite_with_finite_gradients(scale: float) -> None:
    gates = (torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]]) * scale).requires_grad_()
    experts = (torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]) * scale).requires_grad_()
    logits = mixture_logits(gates, experts)
    assert logits.isfinite().all()
    logits.sum().backward()
    for tensor in (gates, experts):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_a_wrong_number_of_gates_is_refused() -> None:
    with pytest.raises(ValueError, match="3 experts need 3 gates or one more, found 5"):
        mixture_logits(torch.zeros(5), torch.zeros(2, 3))


def test_gating_multiplies_probabilities() -> None:
    random = np.random.RandomState(0)
    logits, gates = random.randn(50) * 4, random.randn(50) * 4
    product = torch.sigmoid(gated_logits(torch.from_numpy(logits), torch.from_numpy(gates)))
    np.testing.assert_allclose(product, sigmoid(logits) * sigmoid(gates), rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e30, -1e4, 1e4, 1e30])
@pytest.mark.parametrize("gate", [-1e30, -1e4, 1e4, 1e30])
def test_gating_extreme_logits_is_finite_with_finite_gradients(logit: float, gate: float) -> None:
    logits, gates = torch.tensor([logit], requires_grad=True), torch.tensor([gate], requires_grad=True)
    product = gated_logits(logits, gates)
    product.sum().backward()
    assert product.isfinite().all()
    assert logits.grad is not None and gates.grad is not None
    assert logits.grad.isfinite().all() and gates.grad.isfinite().all()
    assert float(torch.sigmoid(product.detach())) == float(logit > 0 and gate > 0)
