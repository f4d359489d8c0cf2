"""The recurrent layers against loops over clips and frames in NumPy, written from the published cells' formulas."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from yt8m_ray.models.recurrent import GRU, LSTM, LSTMCellWeights, full_state, shuffle_frames

LENGTHS = (5, 0, 1, 3)
MAX_FRAMES = 5
INPUT_DIM = 3
CELL_DIM = 4

State = tuple[np.ndarray, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.randn(len(LENGTHS), MAX_FRAMES, INPUT_DIM, generator=torch.Generator().manual_seed(0))
    return frames, torch.tensor(LENGTHS)


def lstm_loop(frames: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, State]:
    """TensorFlow's BasicLSTMCell over one clip; the kernel's columns are the gates i, j, f, o."""
    dim = kernel.shape[1] // 4
    c, h = np.zeros(dim), np.zeros(dim)
    outputs = np.zeros((len(frames), dim))
    for step, frame in enumerate(frames):
        i, j, f, o = np.split(np.concatenate([frame, h]) @ kernel + bias, 4)
        c = c * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        outputs[step] = h
    return outputs, (c, h)


def gru_loop(frames: np.ndarray, layer: GRU) -> tuple[np.ndarray, np.ndarray]:
    """TensorFlow's GRUCell over one clip."""
    gates_kernel, gates_bias, candidate_kernel, candidate_bias = (
        parameter.detach().double().numpy()
        for parameter in (layer.gates_kernel, layer.gates_bias, layer.candidate_kernel, layer.candidate_bias)
    )
    h = np.zeros(candidate_kernel.shape[1])
    outputs = np.zeros((len(frames), len(h)))
    for step, frame in enumerate(frames):
        r, u = np.split(sigmoid(np.concatenate([frame, h]) @ gates_kernel + gates_bias), 2)
        c = np.tanh(np.concatenate([frame, r * h]) @ candidate_kernel + candidate_bias)
        h = u * h + (1 - u) * c
        outputs[step] = h
    return outputs, h


def published_lstm_weights(cell: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    kernel = torch.cat([cell.weight_ih, cell.weight_hh], dim=1).t().detach().double().numpy()
    (i, f, j, o), (bi, bf, bj, bo) = np.split(kernel, 4, axis=1), np.split(cell.bias.detach().double().numpy(), 4)
    return np.concatenate([i, j, f, o], axis=1), np.concatenate([bi, bj, bf, bo])


def perturbed(layer: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return layer


def test_a_stacked_lstm_equals_the_published_cells_step_by_step() -> None:
    layer, (frames, num_frames) = perturbed(LSTM(INPUT_DIM, CELL_DIM, num_layers=2)), random_batch()
    outputs, state = layer(frames, num_frames)
    for row, length in enumerate(LENGTHS):
        expected = frames[row, :length].double().numpy()
        for (cell,), (c, h) in zip(layer.layers, state, strict=True):
            expected, (expected_c, expected_h) = lstm_loop(expected, *published_lstm_weights(cell))
            np.testing.assert_allclose(c[row].detach(), expected_c, atol=1e-6)
            np.testing.assert_allclose(h[row].detach(), expected_h, atol=1e-6)
        np.testing.assert_allclose(outputs[row, :length].detach(), expected, atol=1e-6)


def test_the_backward_lstm_reads_the_real_frames_in_reverse() -> None:
    layer, (frames, num_frames) = perturbed(LSTM(INPUT_DIM, CELL_DIM, bidirectional=True)), random_batch()
    outputs, [(c, h)] = layer(frames, num_frames)
    forwards, backwards = (published_lstm_weights(cell) for cell in layer.layers[0])
    for row, length in enumerate(LENGTHS):
        clip = frames[row, :length].double().numpy()
        there, (c_there, h_there) = lstm_loop(clip, *forwards)
        back, (c_back, h_back) = lstm_loop(clip[::-1], *backwards)
        expected = np.concatenate([there, back[::-1]], axis=1)
        np.testing.assert_allclose(outputs[row, :length].detach(), expected, atol=1e-6)
        np.testing.assert_allclose(c[row].detach(), np.concatenate([c_there, c_back]), atol=1e-6)
        np.testing.assert_allclose(h[row].detach(), np.concatenate([h_there, h_back]), atol=1e-6)


@pytest.mark.parametrize("backward_in_time", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("training", [False, True], ids=["no gradient", "gradient"])
def test_a_gru_equals_the_published_cell_step_by_step(backward_in_time: bool, training: bool) -> None:
    layer, (frames, num_frames) = perturbed(GRU(INPUT_DIM, CELL_DIM, backward_in_time=backward_in_time)), random_batch()
    with torch.set_grad_enabled(training):
        outputs, last = layer(frames, num_frames)
    order = -1 if backward_in_time else 1
    for row, length in enumerate(LENGTHS):
        expected, expected_last = gru_loop(frames[row, :length].double().numpy()[::order], layer)
        np.testing.assert_allclose(outputs[row, :length].detach(), expected[::order], atol=1e-6)
        np.testing.assert_allclose(last[row].detach(), expected_last, atol=1e-6)


@pytest.fixture(
    params=[
        lambda: LSTM(INPUT_DIM, CELL_DIM),
        lambda: LSTM(INPUT_DIM, CELL_DIM, num_layers=2, bidirectional=True),
        lambda: GRU(INPUT_DIM, CELL_DIM),
        lambda: GRU(INPUT_DIM, CELL_DIM, backward_in_time=True),
    ],
    ids=["lstm", "stacked bidirectional lstm", "gru", "backward gru"],
    name="layer",
)
def recurrent_layer(request: pytest.FixtureRequest) -> torch.nn.Module:
    return perturbed(request.param())


def test_outputs_in_the_padding_are_exactly_zero(layer: torch.nn.Module) -> None:
    frames, num_frames = random_batch()
    outputs, _ = layer(frames, num_frames)
    assert not outputs[torch.arange(MAX_FRAMES) >= num_frames[:, None]].any()


def last_state(layer: torch.nn.Module, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    last = layer(frames, num_frames)[1]
    return full_state(last) if isinstance(last, list) else last


def test_the_last_state_does_not_change_by_one_bit_in_the_padding(layer: torch.nn.Module) -> None:
    frames, num_frames = random_batch()
    longer = torch.nn.functional.pad(frames, (0, 0, 0, 50), value=1e4)
    assert torch.equal(last_state(layer, longer, num_frames), last_state(layer, frames, num_frames))


def test_a_clip_without_frames_ends_in_the_zero_state(layer: torch.nn.Module) -> None:
    frames, num_frames = random_batch()
    assert not last_state(layer, frames, num_frames)[LENGTHS.index(0)].any()


@pytest.mark.parametrize("shape", [(0, MAX_FRAMES), (0, 0), (2, 0)])
def test_an_empty_batch_gives_zero_gradients(layer: torch.nn.Module, shape: tuple[int, int]) -> None:
    num_frames = torch.zeros(shape[0], dtype=torch.int64)
    outputs, _ = layer(torch.zeros(*shape, INPUT_DIM), num_frames)
    state = last_state(layer, torch.zeros(*shape, INPUT_DIM), num_frames)
    assert outputs.shape[:2] == shape
    assert state.shape[0] == shape[0]
    (outputs.sum() + state.sum()).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_gradients_equal_finite_differences(layer: torch.nn.Module) -> None:
    layer = layer.double()
    frames, num_frames = random_batch()
    names = [name for name, _ in layer.named_parameters()]

    def run(inputs: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, last = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (inputs, num_frames))
        return outputs, full_state(last) if isinstance(last, list) else last

    by_torch = isinstance(layer, LSTM)  # then its many weights are checked in one random direction
    assert torch.autograd.gradcheck(run, (frames.double().requires_grad_(), *layer.parameters()), fast_mode=by_torch)


def test_gradients_in_float32_equal_those_in_float64(layer: torch.nn.Module) -> None:
    frames, num_frames = random_batch()
    exact = copy.deepcopy(layer).double()
    for rounded, inputs in ((layer, frames), (exact, frames.double())):
        outputs, _ = rounded(inputs, num_frames)
        (outputs.square().sum() + last_state(rounded, inputs, num_frames).square().sum()).backward()
    for (name, parameter), other in zip(layer.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad.double(), other.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_gradient_of_the_last_state_alone_is_that_of_all_outputs_last_row() -> None:
    layer, (frames, _) = perturbed(GRU(INPUT_DIM, CELL_DIM)), random_batch()
    full = torch.full((len(LENGTHS),), MAX_FRAMES)
    by_state = torch.autograd.grad(layer(frames, full)[1].square().sum(), list(layer.parameters()))
    by_output = torch.autograd.grad(layer(frames, full)[0][:, -1].square().sum(), list(layer.parameters()))
    torch.testing.assert_close(by_state, by_output)


def test_a_gru_trains_where_its_inputs_come_without_gradient_or_its_weights_are_frozen() -> None:
    layer, (frames, num_frames) = GRU(INPUT_DIM, CELL_DIM), random_batch()
    layer.requires_grad_(False)
    frames.requires_grad_()
    layer(frames, num_frames)[1].sum().backward()
    assert frames.grad is not None
    assert frames.grad[0].any()
    assert not frames.grad[1].any()


def test_a_gru_runs_in_float32_under_autocast() -> None:
    layer, (frames, num_frames) = GRU(INPUT_DIM, CELL_DIM), random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, last = layer(frames, num_frames)
        (outputs.sum() + last.sum()).backward()
    assert outputs.dtype == last.dtype == torch.float32
    assert layer.gates_kernel.grad is not None and layer.gates_kernel.grad.any()


def test_copies_and_pickles_answer_the_same(layer: torch.nn.Module) -> None:
    frames, num_frames = random_batch()
    expected = last_state(layer, frames, num_frames)
    assert torch.equal(last_state(copy.deepcopy(layer), frames, num_frames), expected)
    assert torch.equal(last_state(pickle.loads(pickle.dumps(layer)), frames, num_frames), expected)


@pytest.mark.parametrize("sizes", [(3, 4), (7, 1)])
def test_layers_have_as_many_weights_as_the_published_cells(sizes: tuple[int, int]) -> None:
    inputs, cells = sizes
    assert sum(p.numel() for p in LSTM(inputs, cells).parameters()) == 4 * cells * (inputs + cells + 1)
    assert sum(p.numel() for p in GRU(inputs, cells).parameters()) == 3 * cells * (inputs + cells + 1)


def test_initial_weights_are_those_of_tensorflow() -> None:
    (cell,) = LSTM(50, 30).layers[0]
    bound = np.sqrt(6 / (50 + 30 + 4 * 30))
    kernel = torch.cat([cell.weight_ih, cell.weight_hh], dim=1)
    assert 0.95 * bound < float(kernel.detach().abs().max()) <= bound
    assert not cell.bias.any()
    gru = GRU(50, 30)
    for parameter, outputs in ((gru.gates_kernel, 60), (gru.candidate_kernel, 30)):
        bound = np.sqrt(6 / (50 + 30 + outputs))
        assert 0.95 * bound < float(parameter.detach().abs().max()) <= bound
    assert torch.equal(gru.gates_bias, torch.ones(60))
    assert not gru.candidate_bias.any()


def test_shuffling_keeps_every_real_frame_and_leaves_the_padding_behind() -> None:
    torch.manual_seed(0)
    frames = torch.arange(1.0, 41).view(2, 20, 1) * (torch.arange(20) < torch.tensor([[20], [9]])).unsqueeze(2)
    shuffled = shuffle_frames(frames, torch.tensor([20, 9]))
    assert not torch.equal(shuffled, frames)
    assert torch.equal(shuffled[0].sort(dim=0).values, frames[0])
    assert torch.equal(shuffled[1, :9].sort(dim=0).values, frames[1, :9])
    assert not shuffled[1, 9:].any()


def test_an_lstm_may_mark_its_padding_in_more_columns_than_one() -> None:
    frames, num_frames = random_batch()
    layer, cell = LSTM(INPUT_DIM, CELL_DIM), LSTMCellWeights(INPUT_DIM, CELL_DIM)
    padding = (torch.arange(MAX_FRAMES) >= num_frames.unsqueeze(1)).unsqueeze(2)

    one, eight = (
        layer._run_layer(cell.with_padding_columns(count), frames, padding.expand(-1, -1, count), num_frames)
        for count in (1, 8)
    )

    torch.testing.assert_close(eight, one)
