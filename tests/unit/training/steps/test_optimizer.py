from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.config.optimizer import OptimizerConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.steps.optimizer import (
    build_optimizer,
    clip_gradients,
    freeze,
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
    optimizer = build_optimizer({"w": parameter}, config)
    found = []
    for step, gradient in enumerate(([1e-9, 1.0], [1e-9, -0.5], [2e-9, 0.1]), start=1):
        parameter.grad = torch.tensor(gradient)
        prepare_step(optimizer, config, step=step, rate=0.01)
        optimizer.step()
        found.append(parameter.tolist())
    expected = [[0.99996847, -2.00999999], [0.99992394, -2.01266336], [0.99984956, -2.01528358]]
    np.testing.assert_allclose(found, expected, rtol=3e-7)


def test_adam_without_it_takes_torchs() -> None:
    config = OptimizerConfig(learning_rate=0.01)
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    optimizers = [build_optimizer({"w": ours}, config), torch.optim.Adam([theirs], lr=0.01)]
    for step in range(1, 4):
        prepare_step(optimizers[0], config, step=step, rate=0.01)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.tensor([1e-9, 1.0]) * step
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("step", "expected"), [(0, 2e-4), (24_999, 2e-4), (25_000, 1.6e-4), (50_000, 1.28e-4)])
def test_the_staircase_is_the_published_one(step: int, expected: float) -> None:
    config = OptimizerConfig(learning_rate=2e-4, decay_factor=0.8, decay_examples=4_000_000)

    assert learning_rate(config, step * 160) == pytest.approx(expected)


def rates(num_examples: list[int], *, run_examples: float = 1000, **config: Any) -> list[float]:
    settings = OptimizerConfig.model_validate({"learning_rate": 1.0, **config})
    return [learning_rate(settings, number, run_examples=run_examples) for number in num_examples]


def test_the_linear_schedule_falls_over_what_the_warm_up_leaves_of_the_run() -> None:
    found = rates([0, 99, 100, 550, 1000, 2000], schedule="linear", warm_up_examples=100, final_fraction=0.2)

    assert found == pytest.approx([0.01, 1.0, 1.0, 0.6, 0.2, 0.2])


def test_the_cosine_schedule_is_half_a_wave() -> None:
    found = rates([0, 125, 250, 500, 900], schedule="cosine", schedule_examples=500)

    assert found == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.0, 0.0], abs=1e-12)


def test_the_triangular_schedule_rises_and_falls_in_each_cycle() -> None:
    found = rates([0, 25, 50, 75, 100, 150], schedule="triangular", cycle_examples=100, final_fraction=0.1)

    assert found == pytest.approx([0.1, 0.55, 1.0, 0.55, 0.1, 1.0])


def test_a_staircase_begins_behind_the_warm_up() -> None:
    found = rates([0, 9, 10, 109, 110], warm_up_examples=10, decay_factor=0.5, decay_examples=100)

    assert found == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5])


def linear_with_bias() -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    return dict(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).named_parameters())


def one_step(parameters: dict[str, torch.nn.Parameter], **config: Any) -> dict[str, torch.Tensor]:
    """Returns how much each parameter moved in a step with gradients of 1."""
    settings = OptimizerConfig.model_validate({"learning_rate": 0.1, **config})
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    freeze(parameters, settings)
    optimizer = build_optimizer(parameters, settings)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    prepare_step(optimizer, settings, step=1, rate=settings.learning_rate)
    optimizer.step()
    return {name: parameter.detach() - before[name] for name, parameter in parameters.items()}


def test_decoupled_decay_takes_matrices_alone_and_not_those_excluded() -> None:
    parameters = linear_with_bias()
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    moved = one_step(parameters, name="adamw", weight_decay=0.5, no_weight_decay=["1.*"])

    torch.testing.assert_close(moved["0.weight"], -0.1 - 0.1 * 0.5 * start["0.weight"])
    for name in ("0.bias", "1.weight", "1.bias"):
        torch.testing.assert_close(moved[name], torch.full_like(start[name], -0.1))


def test_the_last_pattern_that_fits_sets_the_rate_and_0_freezes() -> None:
    moved = one_step(linear_with_bias(), learning_rate_factors={"*": 0.5, "*.bias": 0.0, "1.bias": 2.0})

    assert {name: round(float(step.flatten()[0]), 6) for name, step in moved.items()} == {
        "0.weight": -0.05,
        "0.bias": 0.0,
        "1.weight": -0.05,
        "1.bias": -0.2,
    }


@pytest.mark.parametrize("key", ["learning_rate_factors", "no_weight_decay"])
def test_a_pattern_that_fits_nothing_is_refused(key: str) -> None:
    value = {"haed.*": 2.0} if key == "learning_rate_factors" else ["haed.*"]
    config = OptimizerConfig.model_validate({"name": "adamw", "weight_decay": 0.1, key: value})

    with pytest.raises(ConfigError, match=rf"optimizer.{key}: 'haed.\*' fits no parameter; there are 0.weight"):
        build_optimizer(linear_with_bias(), config)


def test_sgd_moves_along_its_momentum() -> None:
    config = OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.5)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer({"w": parameter}, config)
    found = []
    for step in range(1, 4):
        parameter.grad = torch.ones(1)
        prepare_step(optimizer, config, step=step, rate=0.1)
        optimizer.step()
        found.append(parameter.item())

    assert found == pytest.approx([-0.1, -0.25, -0.425])


def test_the_global_norm_scales_all_gradients_alike() -> None:
    first, second = parameters_with([3.0, 0.0], [0.0, 4.0])

    clip_gradients([first, second], OptimizerConfig(clip="global", clip_gradient_norm=1.0))

    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(torch.stack([first.grad, second.grad]), torch.tensor([[0.6, 0.0], [0.0, 0.8]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_seen(value: float) -> None:
    assert not clip_gradients(parameters_with([1.0], [value]), OptimizerConfig())


def test_each_gradient_is_clipped_by_its_own_norm() -> None:
    first, second, third = parameters_with([3.0, 4.0], [0.3, 0.4], [0.0, 0.0])

    clip_gradients([first, second, third], OptimizerConfig())

    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(second.grad, torch.tensor([0.3, 0.4]))


def test_a_bound_of_zero_leaves_gradients_alone() -> None:
    (parameter,) = parameters_with([30.0, 40.0])

    clip_gradients([parameter], OptimizerConfig(clip_gradient_norm=0))

    assert parameter.grad is not None
    assert parameter.grad.tolist() == [30.0, 40.0]


def test_a_parameter_without_a_gradient_is_passed_over() -> None:
    assert clip_gradients([torch.nn.Parameter(torch.ones(2))], OptimizerConfig())


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("fused", [True, False])
def test_moments_continue_where_they_were(name: str, fused: bool) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(4) for _ in range(6)]

    def run(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, part: list[torch.Tensor]) -> None:
        for gradient in part:
            parameter.grad = gradient.clone()
            optimizer.step()

    config = OptimizerConfig.model_validate({"name": name, "fused": fused})
    straight = torch.nn.Parameter(torch.ones(4))
    run(straight, build_optimizer({"w": straight}, config), gradients)

    first = torch.nn.Parameter(torch.ones(4))
    before = build_optimizer({"w": first}, config)
    run(first, before, gradients[:3])
    second = torch.nn.Parameter(first.detach().clone())
    after = build_optimizer({"w": second}, config)
    load_optimizer_state(after, {second: "w"}, optimizer_state(before, {first: "w"}), config)
    run(second, after, gradients[3:])

    assert torch.equal(straight, second)


def test_another_optimizer_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    config = OptimizerConfig(name="sgd")
    optimizer = build_optimizer({"w": parameter}, config)

    load_optimizer_state(optimizer, {parameter: "w"}, {"exp_avg.w": torch.ones(2)}, config)

    assert parameter not in optimizer.state
    assert "sgd starts anew" in caplog.text
