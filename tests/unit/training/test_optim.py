from __future__ import annotations

import pytest
import torch

from yt8m_ray.config.train import OptimizerConfig
from yt8m_ray.training.optim import (
    build_optimizer,
    clip_each_gradient,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)


def parameters_with(*gradients: list[float]) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


@pytest.mark.parametrize(("step", "expected"), [(0, 2e-4), (24_999, 2e-4), (25_000, 1.6e-4), (50_000, 1.28e-4)])
def test_the_staircase_is_the_published_one(step: int, expected: float) -> None:
    config = OptimizerConfig(learning_rate=2e-4, decay_factor=0.8, decay_examples=4_000_000)

    assert learning_rate(config, step * 160) == pytest.approx(expected)


def test_each_gradient_is_clipped_by_its_own_norm() -> None:
    first, second, third = parameters_with([3.0, 4.0], [0.3, 0.4], [0.0, 0.0])

    clip_each_gradient([first, second, third], 1.0)

    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(second.grad, torch.tensor([0.3, 0.4]))


def test_a_bound_of_zero_leaves_gradients_alone() -> None:
    (parameter,) = parameters_with([30.0, 40.0])

    clip_each_gradient([parameter], 0.0)

    assert parameter.grad is not None
    assert parameter.grad.tolist() == [30.0, 40.0]


def test_a_parameter_without_a_gradient_is_passed_over() -> None:
    clip_each_gradient([torch.nn.Parameter(torch.ones(2))], 1.0)


def test_moments_continue_where_they_were() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(4) for _ in range(6)]

    def run(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, part: list[torch.Tensor]) -> None:
        for gradient in part:
            parameter.grad = gradient.clone()
            optimizer.step()

    config = OptimizerConfig()
    straight = torch.nn.Parameter(torch.ones(4))
    run(straight, build_optimizer([straight], config), gradients)

    first = torch.nn.Parameter(torch.ones(4))
    before = build_optimizer([first], config)
    run(first, before, gradients[:3])
    second = torch.nn.Parameter(first.detach().clone())
    after = build_optimizer([second], config)
    load_optimizer_state(after, {second: "w"}, optimizer_state(before, {first: "w"}))
    run(second, after, gradients[3:])

    assert torch.equal(straight, second)
