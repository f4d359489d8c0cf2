"""Recurrent layers that the model families share: the LSTM and the GRU of TensorFlow 1, over clips of any length."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Neither layer packs or reverses clips. In the padding the gates shut both cells exactly: the state at a clip's end
# stays to the end of the batch, and the backward direction begins its real frames in the zero state. That keeps whole
# batches in one call of oneDNN or cuDNN, asks the device for no length, and makes clips without frames legal.

# Added to a gate in the padding: beyond every sum of inputs, so that its sigmoid is exactly 1 or 0.
SHUT = 1e30


def keep_scans_uncompiled() -> None:
    """Keeps torch.compile out of the loops over time, which it would unroll for each length; call it before."""
    # Not a decorator of the methods: torch._dynamo takes two seconds to import, and most processes compile nothing.
    LSTM._run_layer = torch.compiler.disable(LSTM._run_layer)  # type: ignore[method-assign]
    GRU._run = torch.compiler.disable(GRU._run)  # type: ignore[method-assign]


def shuffle_frames(frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Returns `frames` [B, T, D] with every clip's real frames in an order drawn at random, and the padding behind."""
    # Drawn frame by frame: a clip's order is the same whatever the padding.
    drawn = torch.rand(frames.shape[1], frames.shape[0], device=frames.device).t()
    order = drawn.masked_fill(_is_padding(frames, num_frames), 2.0).argsort(dim=1)
    return frames.gather(1, order.unsqueeze(2).expand_as(frames))


def full_state(state: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Returns [c1; h1; c2; h2; ...] of the layers of an LSTM."""
    return torch.cat([part for layer in state for part in layer], dim=1)


def _at_least_one(frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the batch, with an empty clip where it has no clip, and a frame of padding where it has no frame."""
    # Callers cut their results off again, which gives every parameter a gradient of zeros.
    no_clip, no_frame = int(frames.shape[0] == 0), int(frames.shape[1] == 0)
    if not (no_clip or no_frame):
        return frames, num_frames
    return F.pad(frames, (0, 0, 0, no_frame, 0, no_clip)), F.pad(num_frames, (0, no_clip))


def _is_padding(frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    return torch.arange(frames.shape[1], device=frames.device) >= num_frames.unsqueeze(1)


def _num_padding_columns(inputs: torch.Tensor) -> int:
    """Returns how many columns mark the padding."""
    # On a GPU, products of rows of odd lengths take three times as long.
    return 1 + (-(inputs.shape[2] + 1) % 8 if inputs.is_cuda else 0)


class LSTMCellWeights(nn.Module):
    """The weights of one published BasicLSTMCell, in torch's order of gates i, f, j, o (TensorFlow's is i, j, f, o).

    `bias` is without the constant 1 that the forget gate gets on top.
    """

    def __init__(self, input_dim: int, cell_dim: int) -> None:
        super().__init__()
        # Both matrices together are the transpose of the published kernel, and drawn as one, by its Glorot bound.
        bound = math.sqrt(6 / (input_dim + 5 * cell_dim))
        self.weight_ih = nn.Parameter(torch.empty(4 * cell_dim, input_dim).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(4 * cell_dim, cell_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(4 * cell_dim))

    def with_padding_columns(self, num_columns: int) -> list[torch.Tensor]:
        """Returns the weights of torch's LSTM for inputs with so many more columns, 1 in the padding, else 0."""
        # The first column shuts the cell: i = 0 and f = 1 keep the state c, and o = 0 makes the output 0. The others do
        # nothing.
        cell_dim = self.weight_hh.shape[1]
        # Filled where they are: a list of numbers would be sent to a GPU, and waited for.
        columns, forget = self.bias.new_zeros(4, cell_dim, num_columns), self.bias.new_zeros(4, cell_dim)
        columns[0, :, 0], columns[1, :, 0], columns[3, :, 0] = -SHUT, SHUT, -SHUT
        forget[1] = 1.0
        return [torch.cat([self.weight_ih, columns.flatten(0, 1)], dim=1), self.weight_hh, self.bias, forget.flatten()]


class LSTM(nn.Module):
    """Stacked layers of the published BasicLSTMCell with forget bias 1, each bidirectional where asked for."""

    # Shape letters: B clips, T frames, D inputs, H cell_dim, or 2 * cell_dim of a bidirectional layer (forward first).

    def __init__(self, input_dim: int, cell_dim: int, *, num_layers: int = 1, bidirectional: bool = False) -> None:
        super().__init__()
        self.cell_dim = cell_dim
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        self.layers = nn.ModuleList(
            nn.ModuleList(
                LSTMCellWeights(input_dim if layer == 0 else directions * cell_dim, cell_dim) for _ in range(directions)
            )
            for layer in range(num_layers)
        )

    def forward(
        self, frames: torch.Tensor, num_frames: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Returns the outputs [B, T, H] of the top layer, 0 in the padding, and every layer's last c and h [B, H].

        `frames` [B, T, D] are finite in the padding too.
        """
        num_clips, max_frames = frames.shape[:2]
        outputs, num_frames = _at_least_one(frames, num_frames)
        padding = _is_padding(outputs, num_frames)
        state = []
        for layer in self.layers:
            cells = cast(Iterable[LSTMCellWeights], layer)
            num_columns = _num_padding_columns(outputs)
            weights = [weight for cell in cells for weight in cell.with_padding_columns(num_columns)]
            columns = padding.unsqueeze(2).expand(-1, -1, num_columns)
            outputs, c, h = self._run_layer(weights, outputs, columns, num_frames)
            state.append((c[:num_clips], h[:num_clips]))
        return outputs[:num_clips, :max_frames], state

    def _run_layer(
        self, weights: list[torch.Tensor], inputs: torch.Tensor, columns: torch.Tensor, num_frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the outputs [B, T, H] and the last c and h [B, H]; `columns` mark the padding."""
        is_cuda_autocast = inputs.is_cuda and torch.is_autocast_enabled("cuda")
        if is_cuda_autocast:
            # Left to autocast, cuDNN's LSTM runs in float16 whatever the precision asked for: SHUT is infinite there.
            dtype = torch.get_autocast_dtype("cuda")
            inputs, weights = inputs.to(dtype), [weight.to(dtype) for weight in weights]
        inputs = torch.cat([inputs, columns.to(inputs.dtype)], dim=2)
        zeros = inputs.new_zeros(2 if self.bidirectional else 1, inputs.shape[0], self.cell_dim)
        with torch.autocast("cuda", enabled=False) if is_cuda_autocast else contextlib.nullcontext():
            outputs, last_h, last_c = torch._VF.lstm(
                inputs, (zeros, zeros), weights, True, 1, 0.0, self.training, self.bidirectional, True
            )
        # The forward direction's h is 0 in the padding: its last one stands where the clip ends.
        ends = (num_frames - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, self.cell_dim)
        h = outputs[..., : self.cell_dim].gather(1, ends).squeeze(1)
        if self.bidirectional:
            h = torch.cat([h, last_h[1]], dim=1)
        return outputs, torch.cat(list(last_c), dim=1), h


class GRU(nn.Module):
    """A layer of the published GRUCell, which torch.nn.GRU is not: the reset gate acts before the matrix product.

    r, u = sigmoid([x, h] Wg + bg), c = tanh([x, r * h] Wc + bc), h' = u * h + (1 - u) * c.

    `gates_kernel` is Wg [D + H, 2 * H], r first, and `candidate_kernel` Wc [D + H, H]. With `backward_in_time` a clip
    is read from its last frame to its first.
    """

    # Shape letters: B clips, T frames, D inputs, H cell_dim.

    def __init__(self, input_dim: int, cell_dim: int, *, backward_in_time: bool = False) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.backward_in_time = backward_in_time
        joint_dim = input_dim + cell_dim
        gates_bound, candidate_bound = (math.sqrt(6 / (joint_dim + count * cell_dim)) for count in (2, 1))
        self.gates_kernel = nn.Parameter(torch.empty(joint_dim, 2 * cell_dim).uniform_(-gates_bound, gates_bound))
        # A new cell keeps most of its state.
        self.gates_bias = nn.Parameter(torch.ones(2 * cell_dim))
        self.candidate_kernel = nn.Parameter(
            torch.empty(joint_dim, cell_dim).uniform_(-candidate_bound, candidate_bound)
        )
        self.candidate_bias = nn.Parameter(torch.zeros(cell_dim))

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the outputs [B, T, H], 0 in the padding, and the last state [B, H]; arguments as those of `LSTM`."""
        num_clips, max_frames = frames.shape[:2]
        frames, num_frames = _at_least_one(frames, num_frames)
        padding = _is_padding(frames, num_frames)
        states, last = self._run(frames, padding)
        outputs = states.transpose(0, 1).masked_fill(padding.unsqueeze(2), 0.0)
        return outputs[:num_clips, :max_frames], last[:num_clips]

    def _run(self, frames: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the states after every step [T, B, H] and the last one [B, H]."""
        input_dim = self.input_dim
        steps = frames.transpose(0, 1).flatten(0, 1)
        gates = torch.addmm(self.gates_bias, steps, self.gates_kernel[:input_dim])
        candidates = torch.addmm(self.candidate_bias, steps, self.candidate_kernel[:input_dim])
        with torch.autocast(frames.device.type, enabled=False):
            # The inputs' shares of all steps are one product each; the steps below add the state's.
            dtype, shape = self.gates_kernel.dtype, padding.t().shape
            gates, candidates = gates.to(dtype).unflatten(0, shape), candidates.to(dtype).unflatten(0, shape)
            kernels = self.gates_kernel[input_dim:], self.candidate_kernel[input_dim:]
            arguments = (gates, candidates, *kernels, padding.t(), self.backward_in_time)
            if not torch.is_grad_enabled():
                return _scan(*arguments)
            states, last = _GRUScan.apply(*arguments)  # type: ignore[no-untyped-call]
            return states, last


def _scan(
    gates: torch.Tensor,
    candidates: torch.Tensor,
    gates_kernel: torch.Tensor,
    candidate_kernel: torch.Tensor,
    padding: torch.Tensor,
    backward_in_time: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the states [T, B, H] and the last one; overwrites `gates` and `candidates` with their values.

    `gates` [T, B, 2 * H] and `candidates` [T, B, H] are the shares of the inputs and the biases; the kernels [H, 2 * H]
    and [H, H] those of the state. `padding` is bool [T, B].
    """
    cell_dim = candidates.shape[2]
    # u = 1 keeps the state.
    gates[..., cell_dim:].masked_fill_(padding.unsqueeze(2), SHUT)
    states = torch.empty_like(candidates)
    state = torch.zeros_like(candidates[0])
    reset_state = torch.empty_like(state)
    # All views of single steps at once: small cells spend most of a step outside the products.
    tensors = (gates, gates[..., :cell_dim], gates[..., cell_dim:], candidates, states)
    views = list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True))
    for gate, reset, update, candidate, after in reversed(views) if backward_in_time else views:
        gate.addmm_(state, gates_kernel).sigmoid_()
        torch.mul(reset, state, out=reset_state)
        candidate.addmm_(reset_state, candidate_kernel).tanh_()
        state = torch.lerp(candidate, state, update, out=after)
    return states, state


class _GRUScan(torch.autograd.Function):
    """`_scan` with its gradient: through time by hand, then one matrix product for each kernel over all steps."""

    @staticmethod
    def forward(
        ctx: Any, gates: torch.Tensor, candidates: torch.Tensor, *others: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # `_scan` overwrites them.
        gates, candidates = gates.clone(), candidates.clone()
        states, last = _scan(gates, candidates, *others)
        gates_kernel, candidate_kernel, _, ctx.backward_in_time = others
        ctx.save_for_backward(gates, candidates, states, gates_kernel, candidate_kernel)
        # A gradient that nobody asks for stays None, not a tensor of zeros.
        ctx.set_materialize_grads(False)
        return states, last.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, states_gradient: torch.Tensor | None, last_gradient: torch.Tensor | None) -> Any:
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            gradients = _gru_gradients(ctx.saved_tensors, states_gradient, last_gradient, ctx.backward_in_time)
        return *gradients, None, None


def _gru_gradients(
    saved: Sequence[torch.Tensor],
    states_gradient: torch.Tensor | None,
    last_gradient: torch.Tensor | None,
    backward_in_time: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of `_scan`'s first four arguments, from what its forward pass saved."""
    gates, candidates, states, gates_kernel, candidate_kernel = saved
    num_steps, _, cell_dim = candidates.shape
    # The state that each step began with.
    before = torch.zeros_like(states)
    if backward_in_time:
        before[:-1] = states[1:]
    else:
        before[1:] = states[:-1]
    reset, update = gates[..., :cell_dim], gates[..., cell_dim:]
    # What each step's gradients are multiplied with, for all steps at once: the loop is left with the products.
    d_gates = torch.empty_like(gates)
    torch.mul(before, reset * (1 - reset), out=d_gates[..., :cell_dim])
    torch.mul(before - candidates, update * (1 - update), out=d_gates[..., cell_dim:])
    d_candidates = (1 - update) * (1 - candidates.square())
    gradient = torch.zeros_like(states[0]) if last_gradient is None else last_gradient.clone()
    d_reset_state = torch.empty_like(gradient)
    to_state, to_reset_state = gates_kernel.t(), candidate_kernel.t()
    for step in range(num_steps) if backward_in_time else reversed(range(num_steps)):
        if states_gradient is not None:
            gradient += states_gradient[step]
        d_candidate, d_gate = d_candidates[step].mul_(gradient), d_gates[step]
        d_gate[:, cell_dim:].mul_(gradient)
        torch.mm(d_candidate, to_reset_state, out=d_reset_state)
        d_gate[:, :cell_dim].mul_(d_reset_state)
        gradient.mul_(update[step]).addcmul_(d_reset_state, reset[step]).addmm_(d_gate, to_state)
    flat_before = before.flatten(0, 1)
    d_gates_kernel = flat_before.t() @ d_gates.flatten(0, 1)
    d_candidate_kernel = before.mul_(reset).flatten(0, 1).t() @ d_candidates.flatten(0, 1)
    return d_gates, d_candidates, d_gates_kernel, d_candidate_kernel
