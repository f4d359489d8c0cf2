"""The published operators in NumPy, at inference and in float64: TensorFlow 1's layouts, names and constants.

"2018" in a docstring is section B of the reference of the 2017-2018 systems, "2019" that of the 2017-2019 systems. The
forms in this folder were written from those texts alone and not from our models, which are compared with them.
Variables are named as in 2018 H.5; kernels are [in, out].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray
Variables = Mapping[str, Array]


def scoped(variables: Variables, scope: str) -> dict[str, Array]:
    """Returns the variables below `scope` by the rest of their names."""
    return {name.removeprefix(scope + "/"): value for name, value in variables.items() if name.startswith(scope + "/")}


def clips(frames: Array, num_frames: Sequence[int]) -> list[Array]:
    """Returns the real frames [n, D] of every clip."""
    return [np.asarray(clip[: int(n)], np.float64) for clip, n in zip(frames, num_frames, strict=True)]


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def softmax(x: Array, axis: int = -1) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def relu6(x: Array) -> Array:
    return np.clip(x, 0.0, 6.0)


def l2_normalize(x: Array, axis: int | None = None) -> Array:
    """2018 B.0: x * rsqrt(max(sum x^2, 1e-12)); over everything without an axis."""
    return x / np.sqrt(np.maximum(np.square(x).sum(axis=axis, keepdims=True), 1e-12))


def batch_norm(variables: Variables, scope: str, x: Array, epsilon: float = 1e-3) -> Array:
    """2018 B.0: the moving moments of the last axis; PyTorch's systems have an epsilon of 1e-5."""
    scale = variables[f"{scope}/gamma"] / np.sqrt(variables[f"{scope}/moving_variance"].astype(np.float64) + epsilon)
    return (x - variables[f"{scope}/moving_mean"]) * scale + variables[f"{scope}/beta"]


def dense(variables: Variables, scope: str, x: Array) -> Array:
    """2018 B.0: slim.fully_connected without its activation, and without a bias where the variables have none."""
    y = x @ variables[f"{scope}/weights"]
    return y + variables[f"{scope}/biases"] if f"{scope}/biases" in variables else y


def lstm(variables: Variables, clip: Array) -> tuple[Array, Array, Array]:
    """2018 B.0 BasicLSTMCell(forget_bias=1) over all frames of one clip.

    Returns:
        The outputs [n, h] and the last cell state c and output h, zeros for a clip without frames.
    """
    kernel, bias = variables["basic_lstm_cell/kernel"], variables["basic_lstm_cell/bias"]
    dim = kernel.shape[1] // 4
    c, h, outputs = np.zeros(dim), np.zeros(dim), np.zeros((len(clip), dim))
    for t, x in enumerate(clip):
        i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        c = c * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        outputs[t] = h
    return outputs, c, h


def gru(variables: Variables, clip: Array) -> tuple[Array, Array]:
    """2018 B.0 GRUCell over all frames of one clip: the reset comes before the matmul and u keeps the old state.

    Returns:
        The outputs [n, h] and the last state.
    """
    gates_kernel, gates_bias = variables["gru_cell/gates/kernel"], variables["gru_cell/gates/bias"]
    kernel, bias = variables["gru_cell/candidate/kernel"], variables["gru_cell/candidate/bias"]
    h, outputs = np.zeros(kernel.shape[1]), np.zeros((len(clip), kernel.shape[1]))
    for t, x in enumerate(clip):
        r, u = np.split(sigmoid(np.concatenate([x, h]) @ gates_kernel + gates_bias), 2)
        candidate = np.tanh(np.concatenate([x, r * h]) @ kernel + bias)
        h = u * h + (1.0 - u) * candidate
        outputs[t] = h
    return outputs, h


def cross_entropy(probabilities: Array, labels: Array) -> float:
    """2018 E.3: the sum over classes and mean over videos, with 1e-5 inside both logarithms."""
    losses = labels * np.log(probabilities + 1e-5) + (1.0 - labels) * np.log(1.0 - probabilities + 1e-5)
    return float(-losses.sum(axis=1).mean())
