from __future__ import annotations

import numpy as np
import pytest
import torch

from yt8m_ray.config.optimizer import OptimizerConfig
from yt8m_ray.training.optim import (
    build_optimizer,
    clip_each_gradient,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
    prepare_step,
)


def parameters_with(*gradients: list[float]) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


def test_adam_with_epsilon_hat_takes_the_published_steps() -> None:
    config = OptimizerConfig(learning_rate=0.01, epsilon_hat=True)
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = build_optimizer([parameter], config)
    found = []
    for step, gradient in enumerate(([1e-9, 1.0], [1e-9, -0.5], [2e-9, 0.1]), start=1):
        parameter.grad = torch.tensor(gradient)
        prepare_step(optimizer, config, step=step, num_examples=0)
        optimizer.step()
        found.append(parameter.tolist())
    expected = [[0.99996847, -2.00999999], [0.99992394, -2.01266336], [0.99984956, -2.01528358]]
    np.testing.assert_allclose(found, expected, rtol=3e-7)


def test_adam_without_it_takes_torchs() -> None:
    config = OptimizerConfig(learning_rate=0.01)
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    optimizers = [build_optimizer([ours], config), torch.optim.Adam([theirs], lr=0.01)]
    for step in range(1, 4):
        prepare_step(optimizers[0], config, step=step, num_examples=0)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.tensor([1e-9, 1.0]) * step
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0)


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
