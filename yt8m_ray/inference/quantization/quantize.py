"""Weights as a bundle stores them: a state dict <-> plain tensors that lie in safetensors.

    float16, bfloat16            `name` in that type
    int8                         `name` int8 codes, `name` + SCALE_SUFFIX float32, one scale a channel, to multiply by
                                 broadcasting
    int4                         `name` uint8 [out, in / 2], two codes + 8 a byte, the even column in the low half;
                                 `name` + GROUP_SUFFIX float32 [out, in / group]
    uniform, quantile, kmeans    `name` uint8 codes, `name` + CODEBOOK_SUFFIX the 256 float32 values that they stand for

Whatever has no more than `min_elements` elements stays float32; of int8 and int4, biases and batch norm do at any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import nn

from yt8m_ray.artifacts.checkpoint import DTYPES, is_finite
from yt8m_ray.artifacts.tensor_file import TensorEntry
from yt8m_ray.config.quantization import TransformConfig, TransformName
from yt8m_ray.inference.quantization.codebooks import NUM_CODES, CodebookName, codebook
from yt8m_ray.models.recurrent import LSTMCellWeights

SCALE_SUFFIX = ".scale"
GROUP_SUFFIX = ".group_scale"
CODEBOOK_SUFFIX = ".codebook"
SUFFIXES = (SCALE_SUFFIX, GROUP_SUFFIX, CODEBOOK_SUFFIX)

# Codes are -127..127: without -128 the code of -w is minus the code of w.
MAX_CODE = 127
MAX_INT4_CODE = 7
_INT4_MIDDLE = 8
_FLOAT_BYTES = 4
# Weights that are coded or expanded at a time: 1 MB of float32, which a cache holds.
_PART_ELEMENTS = 1 << 18

_OUTPUT_FIRST = (nn.Linear, nn.Embedding, nn.Conv1d, LSTMCellWeights)
_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_FLOATS = ("F32", "F16", "BF16")
_TINY = torch.finfo(torch.float32).tiny

_DEFAULT = TransformConfig()

State = dict[str, torch.Tensor]
_Form = tuple[tuple[str, ...], list[int]]  # the dtypes that a stored tensor may have, and its shape


def channel_axes(model: nn.Module) -> dict[str, int]:
    """Returns the axis of the output channels of every matrix in `model`, by its name in the state dict."""
    # nn.Linear stores [out, in], nn.Conv1d [out, in, kernel], and the LSTM its weights as torch has them. A parameter
    # that a model holds itself is multiplied from the left, [in, out]: centres, the GRU's kernels.
    axes = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                key = f"{prefix}.{name}" if prefix else name
                axes[key] = 0 if isinstance(module, _OUTPUT_FIRST) else parameter.ndim - 1
    return axes


def quantize_state(
    state: Mapping[str, torch.Tensor], axes: Mapping[str, int], transform: TransformConfig = _DEFAULT
) -> State:
    """Returns a state dict as `transform` stores it.

    With int8, each weight comes back within half its channel's scale (largest magnitude / 127), with int4 within half
    its group's (largest magnitude / 7), plus float32 rounding. `axes` are from `channel_axes`.

    Raises:
        ValueError: a tensor holds NaN or infinity, or what float16 cannot hold, or two names collide.
    """
    stored: State = {}
    for name, tensor in state.items():
        kind = _kind(tensor, axes.get(name), transform)
        if transform.name != "none" and not is_finite(tensor):
            raise ValueError(f"{name}: weights must be finite to be quantized, found NaN or infinity")
        if kind == "none":
            stored[name] = tensor.detach().clone()
            continue
        if taken := [name + suffix for suffix in SUFFIXES if name + suffix in state]:
            raise ValueError(f"{taken[0]}: the model's own variable has the name of the codes' values of {name}")
        stored.update(_store(name, tensor.detach(), kind, axes.get(name, 0), transform.group_size))
    return stored


def dequantize_state(stored: Mapping[str, torch.Tensor]) -> State:
    """Returns the float32 state dict of a stored one; nothing in it maps a file."""
    beside = {name + suffix for name in stored for suffix in SUFFIXES} & stored.keys()
    return {name: dequantize_tensor(stored, name) for name in stored if name not in beside}


def dequantize_tensor(stored: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Returns one tensor of a stored state dict, of its own memory, in float32 where it was transformed."""
    tensor = stored[name]
    if name + SCALE_SUFFIX in stored:
        return tensor.float().mul_(stored[name + SCALE_SUFFIX])
    if name + CODEBOOK_SUFFIX in stored:
        values, weights = stored[name + CODEBOOK_SUFFIX], torch.empty(tensor.shape)
        # In parts, as torch takes eight bytes an index.
        parts = (each.view(-1).split(_PART_ELEMENTS) for each in (tensor, weights))
        for codes, part in zip(*parts, strict=True):
            torch.index_select(values, 0, codes.int(), out=part)
        return weights
    if name + GROUP_SUFFIX in stored:
        scales = stored[name + GROUP_SUFFIX]
        weights = unpack_int4(tensor).float()
        weights.view(*scales.shape, -1).mul_(scales.unsqueeze(2))
        return weights
    return tensor.float() if tensor.dtype in _HALVES.values() else tensor.clone()


def stored_faults(expected: Mapping[str, torch.Tensor], entries: Sequence[TensorEntry]) -> list[str]:
    """Returns a sentence for each tensor of a file from which a state dict, of any device, would not come back."""
    found = {entry.name: entry for entry in entries}
    needed: dict[str, _Form] = {}
    for name, tensor in expected.items():
        suffix = next((s for s in SUFFIXES if name + s in found and name + s not in expected), "")
        needed |= _form(name, tensor, suffix, found)
    wrong = [f"{name} is missing" for name in needed.keys() - found.keys()]
    wrong += [f"{name} is unexpected" for name in found.keys() - needed.keys()]
    for name in needed.keys() & found.keys():
        dtypes, shape = needed[name]
        if found[name].dtype not in dtypes or found[name].shape != shape:
            is_found = f"{found[name].dtype} {found[name].shape}"
            wrong.append(f"{name} is {is_found}, expected {' or '.join(dtypes)} {shape}")
    return wrong


def stored_bytes(state: Mapping[str, torch.Tensor], axes: Mapping[str, int], transform: TransformConfig) -> int:
    """Returns the bytes of what `quantize_state` would make of `state`, whose tensors may be on the device `meta`."""
    total = 0
    for name, tensor in state.items():
        size = tensor.numel()
        match _kind(tensor, axes.get(name), transform):
            case "none":
                total += size * tensor.element_size()
            case "float16" | "bfloat16":
                total += size * 2
            case "int8":
                total += size + tensor.shape[axes[name]] * _FLOAT_BYTES
            case "int4":
                total += size // 2 + size // transform.group_size * _FLOAT_BYTES
            case _:
                total += size + NUM_CODES * _FLOAT_BYTES
    return total


def _kind(tensor: torch.Tensor, axis: int | None, transform: TransformConfig) -> TransformName | Literal["smallest"]:
    """Returns the transform of one tensor; `none` where it stays as it is."""
    if not tensor.is_floating_point() or tensor.numel() <= transform.min_elements:
        return "none"
    if transform.name not in ("int8", "int4"):
        return transform.name
    # Biases and batch norm have no channels to share a scale.
    if axis is None:
        return "none"
    is_linear = axis == 0 and tensor.ndim == 2
    return transform.name if is_linear and tensor.shape[1] % transform.group_size == 0 else "int8"


def _form(name: str, tensor: torch.Tensor, suffix: str, found: Mapping[str, TensorEntry]) -> dict[str, _Form]:
    """Returns types and shape of the stored tensors that `tensor` comes back from, given what lies beside its codes."""
    shape = list(tensor.shape)
    if not suffix:
        return {name: (_FLOATS if tensor.is_floating_point() else (DTYPES[tensor.dtype],), shape)}
    beside = found[name + suffix].shape
    if suffix == SCALE_SUFFIX:
        channels = [[size if axis == number else 1 for number, size in enumerate(shape)] for axis in range(len(shape))]
        return {name: (("I8",), shape), name + suffix: (("F32",), beside if beside in channels else channels[0])}
    if suffix == GROUP_SUFFIX and len(shape) == 2:
        num_groups = beside[-1] if beside and beside[-1] and shape[1] % beside[-1] == 0 else shape[1]
        return {name: (("U8",), [shape[0], shape[1] // 2]), name + suffix: (("F32",), [shape[0], num_groups])}
    return {name: (("U8",), shape), name + CODEBOOK_SUFFIX: (("F32",), [NUM_CODES])}


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Returns the codes int8 [out, in] in -7..7 of bytes [out, in / 2]."""
    halves = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1)
    return halves.to(torch.int8) - _INT4_MIDDLE


def quantize_channels(weights: torch.Tensor, axis: int, *, most: int = MAX_CODE) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns int8 codes -most..most shaped as `weights`, and float32 scales of shape 1 in all axes but `axis`."""
    codes = torch.empty_like(weights, dtype=torch.int8)
    scales = weights.new_empty([size if number == axis else 1 for number, size in enumerate(weights.shape)])
    other_axes = [other for other in range(weights.ndim) if other != axis]
    # A few channels at a time, in memory that a cache holds: a NetVLAD's hidden layer has 1.2 GB.
    step = max(_PART_ELEMENTS * weights.shape[axis] // max(weights.numel(), 1), 1)
    parts = (each.split(step, axis) for each in (weights, codes, scales))
    for part, part_codes, part_scale in zip(*parts, strict=True):
        largest = part.abs().amax(dim=other_axes, keepdim=True)
        # The floor keeps the division finite for an all-zero channel; its codes are 0 whatever the scale.
        part_scale.copy_((largest / most).clamp_min(_TINY))
        part_codes.copy_((part / part_scale).round_().clamp_(-most, most))
    return codes, scales


def _store(name: str, tensor: torch.Tensor, kind: str, axis: int, group_size: int) -> State:
    match kind:
        case "float16" | "bfloat16":
            half = tensor.to(_HALVES[kind])
            if not is_finite(half):
                largest = float(tensor.abs().max())
                raise ValueError(f"{name}: float16 holds at most 65,504, found {largest:g}; take bfloat16")
            return {name: half}
        case "int8":
            codes, scale = quantize_channels(tensor.float(), axis)
            return {name: codes, name + SCALE_SUFFIX: scale}
        case "int4":
            packed, scale = _quantize_groups(tensor.float(), group_size)
            return {name: packed, name + GROUP_SUFFIX: scale}
    numbers, values = codebook(tensor.float().numpy(), cast(CodebookName, kind))
    return {name: torch.from_numpy(numbers), name + CODEBOOK_SUFFIX: torch.from_numpy(values)}


def _quantize_groups(weights: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns bytes of two codes [out, in / 2] of weights [out, in], and scales [out, in / size]."""
    codes, scales = quantize_channels(weights.reshape(-1, size), 0, most=MAX_INT4_CODE)
    halves = codes.add_(_INT4_MIDDLE).view(torch.uint8).view(len(weights), -1)
    return halves[:, 0::2] | halves[:, 1::2] << 4, scales.view(len(weights), -1)
