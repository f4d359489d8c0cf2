"""Models of stored weights: what multiplies integers, what is folded, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from yt8m_ray.artifacts.tensor_file import TensorEntry, read_tensor_entries
from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.inference.quantization.int8_linear import Int8Linear
from yt8m_ray.inference.quantization.quantize import channel_axes, dequantize_state, quantize_state, stored_faults
from yt8m_ray.inference.quantization.restore import Folded, restore_model
from yt8m_ray.models import Model, build_model, build_model_for_weights
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


def restored(config: dict[str, Any], stored: dict[str, torch.Tensor], **options: Any) -> Model:
    return restore_model(build_model_for_weights(config, **SIZES), stored, **options)


def stored_of(model: Model, **transform: Any) -> dict[str, torch.Tensor]:
    return quantize_state(model.state_dict(), channel_axes(model), TransformConfig(min_elements=0, **transform))


@pytest.mark.parametrize("name", ["none", "float16", "bfloat16", "int8", "int4", "uniform", "quantile", "kmeans"])
def test_with_float32_activations_it_is_the_model_of_the_expanded_weights(name: str) -> None:
    model = trained(GATED)
    stored = stored_of(model, name=name, group_size=4)
    expected = build_model(GATED, **SIZES).eval()
    expected.load_state_dict(dequantize_state(stored))

    found = restored(GATED, stored, activations="float32")

    assert torch.equal(found(FRAMES, NUM_FRAMES), expected(FRAMES, NUM_FRAMES))


def test_folding_a_batch_norm_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(GATED)
    stored = stored_of(model)
    folded = restored(GATED, dict(stored))
    for kind in {type(module) for module in model.modules() if hasattr(module, "normalized_by")}:
        monkeypatch.setattr(kind, "normalized_by", {})
    plain = restored(GATED, stored)

    assert sum(isinstance(module, Folded) for module in folded.modules()) == 4  # two assignments, two gates
    assert not any(isinstance(module, Folded) for module in plain.modules())
    torch.testing.assert_close(folded(FRAMES, NUM_FRAMES), plain(FRAMES, NUM_FRAMES), rtol=1e-4, atol=1e-4)


def test_an_assignment_whose_weights_are_the_centres_is_not_folded() -> None:
    config = {"name": "netfv", "num_clusters": 4, "hidden_dim": 8, "couple_weights": True}
    model = trained(config)

    found = restored(config, stored_of(model))

    layer = found.get_submodule("pools.0.assignment.weights")
    assert isinstance(layer, Int8Linear)
    torch.testing.assert_close(
        layer.weight, model.get_parameter("pools.0.assignment.weights.weight"), rtol=0, atol=0.01
    )


def test_clips_do_not_depend_on_one_another() -> None:
    found = restored(GATED, stored_of(trained(GATED)))

    together = found(FRAMES, NUM_FRAMES)

    for clip in range(len(FRAMES)):
        alone = found(FRAMES[clip : clip + 1], NUM_FRAMES[clip : clip + 1])
        torch.testing.assert_close(alone[0], together[clip], rtol=1e-5, atol=1e-5)


def test_small_matrices_are_multiplied_in_float32() -> None:
    model = trained(GATED)
    stored = quantize_state(model.state_dict(), channel_axes(model), TransformConfig(min_elements=200))

    found = restored(GATED, stored)

    kinds = {name: type(found.get_submodule(name)).__name__ for name in ("gating.gate", "hidden.linear")}
    assert kinds == {"gating.gate": "Linear", "hidden.linear": "Int8Linear"}  # 8 x 8 and 8 x 80


def test_tensors_of_another_model_are_refused() -> None:
    stored = stored_of(trained(GATED))

    with pytest.raises(RuntimeError, match=r"size mismatch|Unexpected|Missing"):
        restored({**GATED, "hidden_dim": 16}, stored)


def test_a_missing_bias_is_named() -> None:
    stored = stored_of(trained(GATED))
    del stored["hidden.linear.bias"]

    with pytest.raises(RuntimeError, match=r"hidden\.linear\.bias"):
        restored(GATED, stored)


def entries_of(stored: dict[str, torch.Tensor], folder: Path) -> list[TensorEntry]:
    save_file(stored, folder / "model.safetensors")
    return read_tensor_entries(folder / "model.safetensors")


FORMS = ["none", "float16", "int8", "int4", "uniform"]


@pytest.mark.parametrize("name", FORMS)
def test_the_head_of_a_file_that_fits_is_accepted(tmp_path: Path, name: str) -> None:
    entries = entries_of(stored_of(trained(GATED), name=name, group_size=4), tmp_path)

    assert stored_faults(build_model_for_weights(GATED, **SIZES).state_dict(), entries) == []


@pytest.mark.parametrize("name", FORMS)
def test_no_stored_tensor_can_have_another_shape_or_type_or_be_left_out(tmp_path: Path, name: str) -> None:
    model = trained(GATED)
    entries = entries_of(stored_of(model, name=name, group_size=4), tmp_path)
    expected = model.state_dict()

    for entry in entries:
        others = [other for other in entries if other != entry]
        changes = [([*entry.shape, 1], entry.dtype), ([7, *entry.shape[1:]], entry.dtype), (entry.shape, "I32")]
        for shape, dtype in changes:
            faults = stored_faults(expected, [*others, TensorEntry(entry.name, dtype, shape)])
            assert any(f"{entry.name} is {dtype} {shape}, expected " in fault for fault in faults), (entry, faults)
        assert stored_faults(expected, others), entry
    more = "hidden.linear.weight.other"
    assert stored_faults(expected, [*entries, TensorEntry(more, "F32", [1])]) == [f"{more} is unexpected"]


def test_a_model_of_another_size_is_refused_by_the_head_alone(tmp_path: Path) -> None:
    entries = entries_of(stored_of(trained(GATED)), tmp_path)

    larger = build_model_for_weights(GATED, feature_sizes=[16, 8], num_classes=1_000_000)
    faults = stored_faults(larger.state_dict(), entries)

    assert "head.experts.weight is I8 [24, 8], expected I8 [2000000, 8]" in faults
