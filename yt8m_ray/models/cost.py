"""What a model costs: its size and the arithmetic of a clip, from shapes alone, and its latency on this machine."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from yt8m_ray.models.base import Model

_WARM_UP_CLIPS = 3
_TIMED_CLIPS = 15


def num_parameters(model: torch.nn.Module) -> int:
    """Returns the number of trained values; moving statistics are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: Model, *, num_frames: int) -> int:
    """Returns the multiply-accumulates of the forward pass of a clip of `num_frames` real frames in eval mode.

    Matrix products and convolutions count, on the frames that the model's sampling takes; element-wise operations do
    not. The model may be without storage.
    """
    # What torch's own table lacks: a product added to in place, as in the steps of our GRU, and oneDNN's LSTM, which
    # is one operation. Without oneDNN an LSTM comes apart into products that are in the table.
    table: dict[Any, Callable[..., int]] = {
        torch.ops.aten.addmm_: _addmm_flops,
        torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=table) as counter:
        _run_without_values(model, model, num_frames)
    # A multiply-accumulate is two operations.
    return int(counter.get_total_flops()) // 2


def clip_latency_ms(model: Model, *, num_frames: int) -> float:
    """Returns the median milliseconds of a clip of `num_frames` real frames on one CPU thread, in eval mode."""
    frames = torch.randn(1, num_frames, model.frame_dim)
    count = torch.tensor([num_frames])
    num_threads, was_training = torch.get_num_threads(), model.training
    torch.set_num_threads(1)
    model.eval()
    try:
        with torch.inference_mode():
            times = []
            for _ in range(_WARM_UP_CLIPS + _TIMED_CLIPS):
                started = time.perf_counter()
                model(frames, count)
                times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(num_threads)
        model.train(was_training)
    return 1000 * statistics.median(times[_WARM_UP_CLIPS:])


def representation_dim(model: Model) -> int:
    """Returns R of the model's `represent`, from shapes alone."""
    representation: torch.Tensor = _run_without_values(model, _Represent(model), 1)
    return representation.shape[1]


class _Represent(torch.nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        return self.model.represent(frames, num_frames)


def _run_without_values(model: Model, module: torch.nn.Module, num_frames: int) -> Any:
    """Returns the output, without values, of `module`, which is or holds `model`, for one clip in eval mode."""
    was_training = model.training
    module.eval()
    try:
        # Tensors that have shapes alone; autocast does not know those of the meta device.
        with FakeTensorMode(), torch.no_grad():
            tensors = itertools.chain(module.named_parameters(), module.named_buffers())
            state = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu") for name, tensor in tensors}
            frames = torch.empty(1, num_frames, model.frame_dim, device="cpu")
            return functional_call(module, state, (frames, torch.empty(1, dtype=torch.int64, device="cpu")))
    finally:
        model.train(was_training)


def _addmm_flops(_: Sequence[int], first: Sequence[int], second: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * math.prod(first) * second[1]


def _lstm_flops(
    inputs: Sequence[int], input_weights: Sequence[int], state_weights: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * math.prod(inputs[:2]) * (math.prod(input_weights) + math.prod(state_weights))
