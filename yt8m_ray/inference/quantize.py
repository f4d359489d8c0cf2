"""8-bit weights: int8 per output channel, symmetric, with one float32 scale a channel; or the published codebooks.

Lives here: state dict <-> quantized state dict. Both are plain tensors, so that both lie in safetensors: `name` holds
int8 codes, and `name` + SCALE_SUFFIX the scales, shaped to multiply them by broadcasting; or `name` holds uint8 codes,
and `name` + CODEBOOK_SUFFIX the 256 float32 values that they stand for.
Biases, batch norm and everything of at most `min_elements` stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from yt8m_ray.config.export import PUBLISHED_MIN_ELEMENTS
from yt8m_ray.models.recurrent import LSTMCellWeights

SCALE_SUFFIX = ".scale"
CODEBOOK_SUFFIX = ".codebook"
NUM_CODES = 256
MAX_CODE = 127
"""Codes are -127..127: without -128 the code of -w is minus the code of w."""

_OUTPUT_FIRST = (nn.Linear, nn.Embedding, nn.Conv1d, LSTMCellWeights)


def channel_axes(model: nn.Module) -> dict[str, int]:
    """Returns the axis of the output channels of every matrix in `model`, by its name in the state dict.

    `nn.Linear` stores [out, in], `nn.Conv1d` [out, in, kernel], and the LSTM its weights as torch has them: their
    channels are axis 0. A parameter that a model holds itself is multiplied from the left, [in, out] (centres, the
    GRU's kernels): its channels are the last axis.
    """
    axes = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                key = f"{prefix}.{name}" if prefix else name
                axes[key] = 0 if isinstance(module, _OUTPUT_FIRST) else parameter.ndim - 1
    return axes


def quantize_state(
    state: Mapping[str, torch.Tensor], axes: Mapping[str, int], *, min_elements: int = PUBLISHED_MIN_ELEMENTS
) -> dict[str, torch.Tensor]:
    """Returns `state` with every matrix of more than `min_elements` elements as int8 codes and float32 scales.

    Each weight comes back within half its channel's scale (largest magnitude / 127), plus float32 rounding.

    Args:
        state: A model's state dict; it is not changed.
        axes: The output-channel axis of each matrix, from `channel_axes`; tensors not named there are kept.
        min_elements: Matrices with this many elements or fewer are kept.

    Raises:
        ValueError: a matrix holds NaN or infinity, or two names collide.
    """
    quantized: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in axes and tensor.is_floating_point() and tensor.numel() > min_elements:
            scale_name = name + SCALE_SUFFIX
            if scale_name in state:
                raise ValueError(f"{scale_name}: the model's own variable has the name of the scales of {name}")
            quantized[name], quantized[scale_name] = _quantize(name, tensor, axes[name])
        else:
            quantized[name] = tensor.detach().clone()
    return quantized


def quantize_uniformly(
    state: Mapping[str, torch.Tensor], *, min_elements: int = PUBLISHED_MIN_ELEMENTS
) -> dict[str, torch.Tensor]:
    """Returns `state` with every tensor of more than `min_elements` elements as codes into 256 evenly spaced values.

    The 2018 winner's `quant_uniform`: the values go from the tensor's smallest to its largest element, a weight gets
    the nearest one, and the lower one where two are as near.

    Raises:
        ValueError: a tensor holds NaN or infinity, or two names collide.
    """
    quantized: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.numel() <= min_elements:
            quantized[name] = tensor.detach().clone()
            continue
        if name + CODEBOOK_SUFFIX in state:
            raise ValueError(f"{name}{CODEBOOK_SUFFIX}: the model's own variable has the name of a codebook")
        weights = tensor.detach().double()
        if not torch.isfinite(weights).all():
            raise ValueError(f"{name}: weights must be finite to be quantized, found NaN or infinity")
        values = torch.linspace(float(weights.min()), float(weights.max()), NUM_CODES, dtype=torch.float64)
        middles = (values[:-1] + values[1:]) / 2
        quantized[name] = torch.bucketize(weights, middles).to(torch.uint8)  # at a middle itself, the lower one
        quantized[name + CODEBOOK_SUFFIX] = values.float()
    return quantized


def dequantize_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the float32 state dict of a quantized one; what was not quantized is copied, so nothing maps a file."""
    scaled = {name for name in state if name + SCALE_SUFFIX in state and state[name].dtype == torch.int8}
    coded = {name for name in state if name + CODEBOOK_SUFFIX in state and state[name].dtype == torch.uint8}
    keys = {name + SCALE_SUFFIX for name in scaled} | {name + CODEBOOK_SUFFIX for name in coded}
    restored = {}
    for name, tensor in state.items():
        if name in scaled:
            restored[name] = tensor.float().mul_(state[name + SCALE_SUFFIX])
        elif name in coded:
            restored[name] = state[name + CODEBOOK_SUFFIX][tensor.int()]
        elif name not in keys:
            restored[name] = tensor.clone()
    return restored


def _quantize(name: str, tensor: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns int8 codes of the same shape and float32 scales of shape 1 in all axes but `axis`."""
    weights = tensor.detach().float()
    other_axes = [other for other in range(weights.ndim) if other != axis]
    largest = weights.abs().amax(dim=other_axes, keepdim=True)
    if not torch.isfinite(largest).all():
        raise ValueError(f"{name}: weights must be finite to be quantized, found NaN or infinity")
    # The floor keeps the division finite for an all-zero channel; its codes are 0 whatever the scale.
    scale = (largest / MAX_CODE).clamp_min(torch.finfo(torch.float32).tiny)
    codes = (weights / scale).round_().clamp_(-MAX_CODE, MAX_CODE)
    return codes.to(torch.int8), scale
