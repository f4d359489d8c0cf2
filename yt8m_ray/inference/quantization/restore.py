"""A model from the tensors of a bundle, for computing: 8-bit layers stay 8-bit, everything else is expanded."""

from __future__ import annotations

import torch
from torch import nn

from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.inference.quantization.int8_linear import Int8Linear
from yt8m_ray.inference.quantization.quantize import (
    GROUP_SUFFIX,
    SCALE_SUFFIX,
    dequantize_state,
    dequantize_tensor,
    quantize_channels,
)
from yt8m_ray.models import Model
from yt8m_ray.models.layers import BatchNorm

_AFFINE = ("gamma", "beta", "moving_mean", "moving_variance")

# Rows of an int4 matrix that are expanded at a time.
_ROWS_A_PART = 64


class Folded(nn.Module):
    """Takes the place of a batch norm that is folded into the layer before it: returns its inputs."""

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return inputs


def restore_model(
    model: Model,
    stored: dict[str, torch.Tensor],
    *,
    activations: str = TransformConfig().activations,
    device: str | torch.device = "cpu",
) -> Model:
    """Returns `model`, from `build_model_for_weights`, with a stored state dict, in eval mode; it cannot be trained.

    Linear layers stored as int8 or int4 multiply integers, those of int4 as int8, rounded once more to a scale a
    channel; with `activations` of `float32`, all weights are expanded. A batch norm that alone reads such a layer is
    folded into its scales. `stored`, from `quantize_state`, is emptied.

    Raises:
        RuntimeError: the tensors do not fit the model; torch lists names and shapes.
    """
    # Each layer leaves `stored` before the next is restored: no more than one is in memory twice.
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    norms = _norms(model)
    for name, linear in linears.items() if activations == "int8" else ():
        is_whole = linear.bias is None or f"{name}.bias" in stored
        codes_and_scale = _take_codes(stored, f"{name}.weight", linear) if is_whole else None
        # Stored as floats; or not fit, which loading will say.
        if codes_and_scale is None:
            continue
        bias = stored.pop(f"{name}.bias", None) if linear.bias is not None else None
        codes, scale = codes_and_scale
        if name in norms and all(f"{norms[name][0]}.{part}" in stored for part in _AFFINE):
            codes, scale, bias = _fold(_take_affine(stored, *norms[name]), codes, scale, bias)
            model.set_submodule(norms[name][0], Folded())
        bias = None if bias is None else bias.to(device)
        model.set_submodule(name, Int8Linear(codes.to(device), scale.to(device), bias))
    state = {name: tensor.to(device) for name, tensor in dequantize_state(stored).items()}
    stored.clear()
    model.load_state_dict(state, assign=True)
    return model.eval()


def _norms(model: nn.Module) -> dict[str, tuple[str, BatchNorm]]:
    """Returns the batch norm that alone reads a linear layer, and its name, by the layer's name."""
    norms = {}
    for prefix, module in model.named_modules():
        for linear, norm in getattr(module, "normalized_by", {}).items():
            if isinstance(found := getattr(module, norm), BatchNorm):
                norms[f"{prefix}.{linear}"] = (f"{prefix}.{norm}", found)
    return norms


def _take_codes(
    stored: dict[str, torch.Tensor], name: str, linear: nn.Linear
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Removes a matrix from `stored` and returns its int8 codes and scales; None where it has none that fit."""
    shape = (linear.out_features, linear.in_features)
    if name + SCALE_SUFFIX in stored and stored[name].shape == shape:
        return stored.pop(name), stored.pop(name + SCALE_SUFFIX)
    if name + GROUP_SUFFIX in stored and stored[name].shape == (shape[0], shape[1] // 2):
        packed, scale = stored.pop(name), stored.pop(name + GROUP_SUFFIX)
        parts = zip(packed.split(_ROWS_A_PART), scale.split(_ROWS_A_PART), strict=True)
        coded = [quantize_channels(dequantize_tensor({"w": w, "w" + GROUP_SUFFIX: s}, "w"), 0) for w, s in parts]
        return torch.cat([codes for codes, _ in coded]), torch.cat([scales for _, scales in coded])
    return None


def _take_affine(stored: dict[str, torch.Tensor], name: str, norm: BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Removes a batch norm from `stored` and returns what it multiplies with and adds in eval mode."""
    gamma, beta, mean, variance = (dequantize_tensor({"w": stored.pop(f"{name}.{part}")}, "w") for part in _AFFINE)
    factor = gamma * torch.rsqrt(variance + norm.epsilon)
    return factor, beta - mean * factor


def _fold(
    affine: tuple[torch.Tensor, torch.Tensor], codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns codes, scales and bias of a layer whose outputs are multiplied with a factor a channel, and shifted."""
    factor, shift = affine
    # Scales are not negative: a negative factor turns the signs of its channel's codes instead.
    if bool((factor < 0).any()):
        codes = torch.where(factor.unsqueeze(1) < 0, -codes, codes)
    return codes, scale * factor.abs().unsqueeze(1), shift if bias is None else shift + bias * factor
