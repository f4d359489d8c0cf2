"""A linear layer that multiplies 8-bit integers; its matrix is never expanded as a whole."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from yt8m_ray.compiled import compiled

# Activations are -63..63: two products then fit the 16 bits in which a CPU without VNNI adds them up.
LEVELS = 63
# Code of an activation of 0: codes are unsigned, as the engines for x86 want one of the two sides.
MIDDLE = 64

# Values that are expanded at a time: 4 MB, which a cache holds.
_PART_ELEMENTS = 1 << 20
# cuBLAS multiplies 8-bit matrices of these multiples of rows and columns.
_GPU_MULTIPLE = 32
_TINY = float(np.finfo(np.float32).tiny)
_MAGNITUDE_BITS = np.int32(0x7FFFFFFF)
_INFINITE_BITS = np.int32(0x7F800000)

Kernel = Literal["onednn", "fbgemm", "cublas", "float32"]


class Int8Linear(nn.Module):
    """Takes the place of an `nn.Linear`: [..., in] -> [..., out] in float32, by sums of integers.

    All kernels add up the same integers, and differ by the rounding of float32 alone; the device's fastest is the
    default. Codes are int8 [out, in] in -127..127, scales float32 [out, 1] and not negative, the bias float32 [out].
    """

    def __init__(
        self, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, *, kernel: Kernel | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.scale = scale.reshape(-1).float()
        self.bias = torch.zeros_like(self.scale) if bias is None else bias.float()
        self.kernel = kernel or best_kernel(codes.device)
        self._multiply = _MULTIPLIERS[self.kernel](codes, self.scale)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Int8Linear:
        if fn(torch.empty(0, device=self.scale.device)).device != self.scale.device:
            raise RuntimeError("an Int8Linear stays on its device: restore the model on the other one")
        return self

    @property
    def weight(self) -> torch.Tensor:
        """The matrix [out, in] in float32: for small layers, whose model reads it besides multiplying with it."""
        return self._multiply.codes().float() * self.scale.unsqueeze(1)

    @functools.cached_property
    def diagonal(self) -> torch.Tensor:
        """The diagonal of a square matrix in float32."""
        return self._multiply.codes().diagonal().float() * self.scale

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the outputs."""
        # A scale for each row: the logits of a clip do not depend on the other clips of its batch, as they do with the
        # one scale a batch of torch's and ONNX Runtime's dynamic quantization.
        codes, step = encode(inputs.reshape(-1, self.in_features).float())
        outputs = torch.addcmul(self.bias, self._multiply(codes), step)
        return outputs.view(*inputs.shape[:-1], self.out_features)


def best_kernel(device: torch.device) -> Kernel:
    """Returns what multiplies integers fastest on a device."""
    if device.type == "cuda":
        return "cublas"
    # Measured with one thread on the shapes of a NetVLAD (docs/ensembles.md).
    if "AVX512" in torch.backends.cpu.get_cpu_capability() and torch.backends.mkldnn.is_available():
        return "onednn"
    return "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "float32"


class _Float32:
    """Integers in float32, a few rows of the weights at a time: for all other machines.

    The other kernels derive from it. Each holds codes of weights [out, in] in its own form, with their scales [out].
    """

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self._codes, self._scale = codes, scale

    def __deepcopy__(self, memo: dict[int, object]) -> _Float32:
        # Never changed, so that copies of a model share it.
        return self

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        """Returns the sums [N, out] in float32 of activations [N, in] as codes, times the weights' scales."""
        integers = activations.float().sub_(MIDDLE)
        rows = max(_PART_ELEMENTS // self._codes.shape[1], 1)
        sums = [F.linear(integers, part.float()) for part in self._codes.split(rows)]
        return torch.cat(sums, dim=1).mul_(self._scale)

    def codes(self) -> torch.Tensor:
        """Returns the weights' codes again."""
        return self._codes


class _OneDNN(_Float32):
    """The 8-bit kernels of oneDNN, by the operator that torch's compiler puts in for quantized layers."""

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(torch.ops.onednn.qlinear_prepack(codes, None), scale)
        self._zeros = torch.zeros(len(codes), dtype=torch.int32)

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        if not len(activations):
            return self._scale.new_empty(0, len(self._scale))
        codes = (activations, 1.0, MIDDLE)
        weights = (self._codes, self._scale, self._zeros)
        # Scale and zero point are for an output of integers, and ignored with this type.
        output = (1.0, 0, torch.float32)
        multiply = torch.ops.onednn.qlinear_pointwise
        return cast(torch.Tensor, multiply(*codes, *weights, None, *output, "none", [], ""))

    def codes(self) -> torch.Tensor:
        return self._codes.to_dense().t()


class _FBGEMM(_Float32):
    """The 8-bit kernels of torch for x86, by the operators behind its quantized modules."""

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        zeros = torch.zeros(len(codes), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch announces the end of its quantized tensors.
            warnings.simplefilter("ignore", UserWarning)
            weights = torch._make_per_channel_quantized_tensor(codes, scale.double(), zeros, 0)
            super().__init__(torch.ops.quantized.linear_prepack(weights, None), scale)

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return cast(torch.Tensor, multiply(activations.float().sub_(MIDDLE), 1.0, MIDDLE, self._codes))

    def codes(self) -> torch.Tensor:
        return cast(torch.Tensor, torch.ops.quantized.linear_unpack(self._codes)[0].int_repr())


class _CuBLAS(_Float32):
    """8-bit tensor cores, for matrices padded with zeros."""

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(_pad(codes), scale)
        self._shape = codes.shape

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        if not len(activations):
            return self._scale.new_empty(0, self._shape[0])
        sums = torch._int_mm(_pad(activations.view(torch.int8) - MIDDLE), self._codes.t())
        return sums[: len(activations), : self._shape[0]] * self._scale

    def codes(self) -> torch.Tensor:
        return self._codes[: self._shape[0], : self._shape[1]]


_MULTIPLIERS = {"onednn": _OneDNN, "fbgemm": _FBGEMM, "cublas": _CuBLAS, "float32": _Float32}


def _pad(matrix: torch.Tensor) -> torch.Tensor:
    rows, columns = (-size % _GPU_MULTIPLE for size in matrix.shape)
    # Padding by nothing would copy the matrix.
    return F.pad(matrix, (0, columns, 0, rows)) if rows or columns else matrix


def encode(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns codes uint8 [N, D], 1..127, of activations float32 [N, D], and what a step is worth, float32 [N, 1].

    A row's step is its largest magnitude / 63; NaN for a row that is not finite, so that its outputs are not either.
    """
    rows = rows.detach()
    if rows.device.type != "cpu":
        return encode_by_torch(rows)
    codes, step = torch.empty(rows.shape, dtype=torch.uint8), torch.empty(len(rows), 1)
    values = rows.contiguous().numpy()
    _encode_rows(values, values.view(np.int32), codes.numpy(), step[:, 0].numpy())
    return codes, step


def encode_by_torch(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the same as `encode`, on any device."""
    step = rows.abs().amax(dim=1, keepdim=True) / LEVELS
    step = torch.where(step.isfinite(), step, torch.nan)
    # The inverse of a step next to nothing would be infinite: such a row is all 64.
    factor = torch.where(step > _TINY, 1 / step, 0.0)
    return (torch.nan_to_num(rows) * factor).round_().add_(MIDDLE).to(torch.uint8), step


@compiled
def _encode_rows(rows: Any, bits: Any, codes: Any, steps: Any) -> None:
    for row in range(len(rows)):
        # Magnitudes of floats have the order of their bits, NaN above all; a maximum of integers runs in vectors.
        largest_bits = np.int32(0)
        for column in range(rows.shape[1]):
            largest_bits = max(largest_bits, bits[row, column] & _MAGNITUDE_BITS)
        if largest_bits >= _INFINITE_BITS:
            steps[row] = np.nan
            codes[row] = MIDDLE
            continue
        step = np.int32(largest_bits).view(np.float32) / np.float32(LEVELS)
        factor = np.float32(1) / step if step > _TINY else np.float32(0)
        steps[row] = step
        for column in range(rows.shape[1]):
            codes[row, column] = np.uint8(np.int32(np.rint(rows[row, column] * factor)) + MIDDLE)
