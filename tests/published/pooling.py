"""The published models that pool frames without regard to their order, in NumPy: 2018 B.1 to B.4, B.7 to B.9, B.13.

Every real frame counts once. The published systems sample frames instead; frames that were sampled can be given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.published.heads import LOGISTIC, MOE, Head, classify
from tests.published.layers import (
    Array,
    Variables,
    batch_norm,
    clips,
    dense,
    l2_normalize,
    relu6,
    scoped,
    sigmoid,
    softmax,
)

SIZES = (1024, 128)  # of rgb and audio
ATTENTION_HEAD = Head("logistic", scope="fully_connected_4")
ACTIVATIONS = {"sigmoid": sigmoid, "relu6": relu6}


def video_level(variables: Variables, frames: Array, num_frames: Sequence[int], *, head: Head = MOE) -> Array:
    """2018 B.1, B.2, B.6: LogisticModel and MoeModel on clips of one frame."""
    return classify(variables, np.asarray(frames[:, 0], np.float64), head)


def frame_logistic(variables: Variables, frames: Array, num_frames: Sequence[int], *, head: Head = LOGISTIC) -> Array:
    """2018 B.3: the mean of the real frames, then logistic."""
    return classify(variables, np.stack([clip.mean(axis=0) for clip in clips(frames, num_frames)]), head)


def hidden_layer(variables: Variables, x: Array, activation: Callable[[Array], Array] | None) -> Array:
    """2018 B.4-6, B.7, B.9: hidden1_weights, then hidden1_bn or hidden1_biases, then the activation if any."""
    hidden = x @ variables["hidden1_weights"]
    biased = "hidden1_biases" in variables
    hidden = hidden + variables["hidden1_biases"] if biased else batch_norm(variables, "hidden1_bn", hidden)
    return activation(hidden) if activation else hidden


def dbof_hidden(
    variables: Variables, frames: Array, num_frames: Sequence[int], *, pooling: str, activation: str
) -> Array:
    """2018 B.4 up to the classifier; no batch norm where the variables have cluster_biases."""
    act, pool = ACTIVATIONS[activation], {"max": np.max, "average": np.mean}[pooling]
    pooled = []
    for clip in clips(frames, num_frames):
        if "cluster_biases" in variables:
            clusters = clip @ variables["cluster_weights"] + variables["cluster_biases"]
        else:
            rows = batch_norm(variables, "input_bn", clip)
            clusters = batch_norm(variables, "cluster_bn", rows @ variables["cluster_weights"])
        pooled.append(pool(act(clusters), axis=0))
    return hidden_layer(variables, np.stack(pooled), act)


def dbof(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    pooling: str = "max",
    activation: str = "sigmoid",
    head: Head = MOE,
) -> Array:
    """2018 B.4 DbofModel."""
    hidden = dbof_hidden(variables, frames, num_frames, pooling=pooling, activation=activation)
    return classify(variables, hidden, head)


def assignments(variables: Variables, rows: Array) -> Array:
    """2018 B.7-1: the soft assignment [n, K] of the frames to the clusters."""
    return softmax(batch_norm(variables, "cluster_bn", rows @ variables["cluster_weights"]))


def vlad(variables: Variables, rows: Array) -> Array:
    """2018 B.7 NetVLAD of one clip's rows [n, D], and LightVLAD where the variables have no cluster_weights2."""
    a = assignments(variables, rows)
    descriptor = np.zeros(variables["cluster_weights"].shape)
    for k in range(a.shape[1]):
        centre = variables["cluster_weights2"][0, :, k] if "cluster_weights2" in variables else 0.0
        for weight, row in zip(a[:, k], rows, strict=True):
            descriptor[:, k] += weight * (row - centre)
    return l2_normalize(l2_normalize(descriptor, axis=0).reshape(-1))  # index d * K + k


def fisher_vector(variables: Variables, rows: Array, coupling_factor: float) -> Array:
    """2018 B.8 NetFV of one clip's rows; coupled where the variables have no cluster_weights2."""
    a = assignments(variables, rows)
    deviation = np.square(variables["covar_weights"].astype(np.float64)) + 1e-6
    coupled = "cluster_weights2" not in variables
    centres = coupling_factor * variables["cluster_weights"] if coupled else variables["cluster_weights2"][0]
    first, second = np.zeros(deviation.shape), np.zeros(deviation.shape)
    for k in range(a.shape[1]):
        for weight, row in zip(a[:, k], rows, strict=True):
            distance = (row - centres[:, k]) / deviation[:, k]
            first[:, k] += weight * distance
            second[:, k] += weight * (np.square(distance) - 1.0)
    first = l2_normalize(l2_normalize(first, axis=0).reshape(-1))
    return np.concatenate([first, l2_normalize(second.reshape(-1))])


def soft_bag(variables: Variables, rows: Array, max_pool: bool) -> Array:
    """2018 B.9 SoftDBoF of one clip's rows."""
    a = assignments(variables, rows)
    total = l2_normalize(a.sum(axis=0))
    return np.concatenate([total, l2_normalize(a.max(axis=0))]) if max_pool else total


def gated_bag(variables: Variables, rows: Array) -> Array:
    """2018 B.9 GatedDBoF of one clip's rows."""
    a = assignments(variables, rows)
    gate = l2_normalize(a.max(axis=0)) @ variables["dim_red"] @ variables["cluster_weights_2"]
    return l2_normalize(sigmoid(batch_norm(variables, "cluster_bn_2", gate)) * a.sum(axis=0))


def branches(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    sizes: tuple[int, int],
    video: Callable[[Array], Array],
    audio: Callable[[Array], Array],
) -> Array:
    """2018 B.7: input_bn on all channels, then the two branches' descriptors side by side, [B, dim]."""
    assert frames.shape[2] == sum(sizes)
    described = []
    for clip in clips(frames, num_frames):
        rows = batch_norm(variables, "input_bn", clip)
        described.append(np.concatenate([video(rows[:, : sizes[0]]), audio(rows[:, sizes[0] :])]))
    return np.stack(described)


def gate_context(variables: Variables, hidden: Array, *, remove_diagonal: bool = False) -> Array:
    """2018 B.7: h * sigmoid(BN(h Wg)); B.11: h * sigmoid(h Wg + bg) where the variables have gating_biases."""
    gates = hidden @ variables["gating_weights_2"]
    if remove_diagonal:
        gates = gates - np.diag(variables["gating_weights_2"]) * hidden
    biased = "gating_biases" in variables
    gates = gates + variables["gating_biases"] if biased else batch_norm(variables, "gating_bn", gates)
    return hidden * sigmoid(gates)


def netvlad(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    use_relu: bool = True,
    gating: bool = False,
    gating_remove_diagonal: bool = False,
    feature_sizes: tuple[int, int] = SIZES,
    head: Head = MOE,
) -> Array:
    """2018 B.7 NetVLADModelLF, and LightVLAD where the variables have no cluster_weights2."""
    video, audio = scoped(variables, "video_VLAD"), scoped(variables, "audio_VLAD")
    described = branches(
        variables, frames, num_frames, feature_sizes, lambda rows: vlad(video, rows), lambda rows: vlad(audio, rows)
    )
    hidden = hidden_layer(variables, described, relu6 if use_relu else None)
    if gating:
        hidden = gate_context(variables, hidden, remove_diagonal=gating_remove_diagonal)
    return classify(variables, hidden, head)


def netfv(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    use_relu: bool = True,
    gating: bool = False,
    coupling_factor: float = 0.01,
    feature_sizes: tuple[int, int] = SIZES,
    head: Head = MOE,
) -> Array:
    """2018 B.8 NetFVModelLF; coupled where the variables have no cluster_weights2."""
    video, audio = scoped(variables, "video_FV"), scoped(variables, "audio_FV")
    described = branches(
        variables,
        frames,
        num_frames,
        feature_sizes,
        lambda rows: fisher_vector(video, rows, coupling_factor),
        lambda rows: fisher_vector(audio, rows, coupling_factor),
    )
    hidden = hidden_layer(variables, described, relu6 if use_relu else None)
    if gating:
        hidden = gate_context(variables, hidden)
    return classify(variables, hidden, head)


def soft_dbof(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    gated: bool = False,
    max_pool: bool = False,
    use_relu: bool = True,
    feature_sizes: tuple[int, int] = SIZES,
    head: Head = MOE,
) -> Array:
    """2018 B.9 SoftDbofModelLF, and GatedDbofModelLF with `gated`; no hidden layer without hidden1_weights."""
    video, audio = scoped(variables, "video_DBOF"), scoped(variables, "audio_DBOF")
    described = branches(
        variables,
        frames,
        num_frames,
        feature_sizes,
        lambda rows: gated_bag(video, rows) if gated else soft_bag(video, rows, max_pool),
        lambda rows: soft_bag(audio, rows, max_pool),
    )
    if "hidden1_weights" in variables:
        described = hidden_layer(variables, described, relu6 if use_relu else None)
    return classify(variables, described, head)


def gated_dbof(variables: Variables, frames: Array, num_frames: Sequence[int], **options: Any) -> Array:
    """2018 B.9 GatedDbofModelLF."""
    return soft_dbof(variables, frames, num_frames, gated=True, **options)


def attention_frames(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    attend_to_padding: bool = True,
    feature_sizes: tuple[int, int] = SIZES,
    head: Head = ATTENTION_HEAD,
) -> Array:
    """2018 B.13 attention_frames_v0: as published over all given time steps, padding included (2018 G.2-7)."""
    num_frames = [frames.shape[1]] * len(frames) if attend_to_padding else num_frames
    pooled = []
    for clip in clips(frames, num_frames):
        halves = (clip[:, : feature_sizes[0]], clip[:, feature_sizes[0] :])
        parts = []
        for name, half, fc, gate in zip(("video", "audio"), halves, ("", "_1"), ("_2", "_3"), strict=True):
            rows = batch_norm(variables, f"{name}_input_bn", half)
            values = relu6(batch_norm(variables, f"{name}_cluster_bn", dense(variables, f"fully_connected{fc}", rows)))
            weights = softmax(dense(variables, f"fully_connected{gate}", rows)[:, 0])
            parts.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        pooled.append(np.concatenate(parts))
    return classify(variables, np.stack(pooled), head)
