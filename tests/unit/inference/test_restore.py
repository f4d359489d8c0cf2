"""Models of stored weights: what multiplies integers, what is folded, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from yt8m_ray.config.transform import TransformConfig
from yt8m_ray.inference.int8_linear import Int8Linear
from yt8m_ray.inference.quantize import channel_axes, dequantize_state, quantize_state
from yt8m_ray.inference.restore import Folded, restore_model
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.layers import batch_norms

SIZES: dict[str, Any] = {"feature_sizes": [16, 8], "num_classes": 12}
GATED = {
    "name": "netvlad",
    "num_clusters": 4,
    "hidden_dim": 8,
    "gating_remove_diagonal": True,
    "head": {"name": "moe", "prob_gating": "prob", "prob_gating_remove_diagonal": True},
}
FRAMES, NUM_FRAMES = torch.randn(5, 6, 24, generator=torch.Generator().manual_seed(0)), torch.tensor([6, 1, 0, 3, 5])


def trained(config: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    model = build_model(config, **SIZES)
    model(FRAMES, NUM_FRAMES)
    for norm in batch_norms(model).values():
        norm.gamma.data.uniform_(-1, 1)
    return model.eval()


def stored_of(model: Model, **transform: Any) -> dict[str, torch.Tensor]:
    return quantize_state(model.state_dict(), channel_axes(model), TransformConfig(min_elements=0, **transform))


@pytest.mark.parametrize("name", ["none", "float16", "bfloat16", "int8", "int4", "uniform", "quantile", "kmeans"])
def test_with_float32_activations_it_is_the_model_of_the_expanded_weights(name: str) -> None:
    model = trained(GATED)
    stored = stored_of(model, name=name, group_size=4)
    expected = build_model(GATED, **SIZES).eval()
    expected.load_state_dict(dequantize_state(stored))

    found = restore_model(GATED, stored, activations="float32", **SIZES)

    assert torch.equal(found(FRAMES, NUM_FRAMES), expected(FRAMES, NUM_FRAMES))


def test_folding_a_batch_norm_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(GATED)
    stored = stored_of(model)
    folded = restore_model(GATED, dict(stored), **SIZES)
    monkeypatch.setattr("yt8m_ray.inference.restore._norms", lambda _: {})
    plain = restore_model(GATED, stored, **SIZES)

    assert sum(isinstance(module, Folded) for module in folded.modules()) == 4  # two assignments, two gates
    assert not any(isinstance(module, Folded) for module in plain.modules())
    torch.testing.assert_close(folded(FRAMES, NUM_FRAMES), plain(FRAMES, NUM_FRAMES), rtol=1e-4, atol=1e-4)


def test_an_assignment_whose_weights_are_the_centres_is_not_folded() -> None:
    config = {"name": "netfv", "num_clusters": 4, "hidden_dim": 8, "couple_weights": True}
    model = trained(config)

    found = restore_model(config, stored_of(model), **SIZES)

    layer = found.get_submodule("pools.0.assignment.weights")
    assert isinstance(layer, Int8Linear)
    torch.testing.assert_close(
        layer.weight, model.get_parameter("pools.0.assignment.weights.weight"), rtol=0, atol=0.01
    )


def test_clips_do_not_depend_on_one_another() -> None:
    found = restore_model(GATED, stored_of(trained(GATED)), **SIZES)

    together = found(FRAMES, NUM_FRAMES)

    for clip in range(len(FRAMES)):
        alone = found(FRAMES[clip : clip + 1], NUM_FRAMES[clip : clip + 1])
        torch.testing.assert_close(alone[0], together[clip], rtol=1e-5, atol=1e-5)


def test_small_matrices_are_multiplied_in_float32() -> None:
    model = trained(GATED)
    stored = quantize_state(model.state_dict(), channel_axes(model), TransformConfig(min_elements=200))

    found = restore_model(GATED, stored, **SIZES)

    kinds = {name: type(found.get_submodule(name)).__name__ for name in ("gating.gate", "hidden.linear")}
    assert kinds == {"gating.gate": "Linear", "hidden.linear": "Int8Linear"}  # 8 x 8 and 8 x 80


def test_tensors_of_another_model_are_refused() -> None:
    stored = stored_of(trained(GATED))

    with pytest.raises(RuntimeError, match=r"size mismatch|Unexpected|Missing"):
        restore_model({**GATED, "hidden_dim": 16}, stored, **SIZES)


def test_a_missing_bias_is_named() -> None:
    stored = stored_of(trained(GATED))
    del stored["hidden.linear.bias"]

    with pytest.raises(RuntimeError, match=r"hidden\.linear\.bias"):
        restore_model(GATED, stored, **SIZES)
