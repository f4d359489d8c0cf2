"""NeXtVLAD and the mixture of three that distils itself, in NumPy: 2019 B.12, with slim's names for its layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.published.layers import (
    Array,
    Variables,
    batch_norm,
    clips,
    cross_entropy,
    dense,
    l2_normalize,
    relu,
    scoped,
    sigmoid,
    softmax,
)

SIZES = (1024, 128)  # of rgb and audio


def reverse_whitening(frames: Array, eigenvalues: Array, offset: float = 4 / 512) -> Array:
    """2019 B.12: (x - o) * (sqrt(e) + 1e-4) of as many channels as there are eigenvalues; the rest as it is."""
    frames = np.array(frames, np.float64)
    rgb = frames[..., : len(eigenvalues)]
    frames[..., : len(eigenvalues)] = (rgb - offset) * (np.sqrt(eigenvalues) + 1e-4)
    return frames


def residuals(vectors: Array, assignment: Array, attention: Array, centres: Array) -> Array:
    """2019 B.3, B.12: the sums [d, K] of the attended and assigned residuals, l2-normalised over d.

    Args:
        vectors: [n, G, d] of one clip.
        assignment: [n, G, K], a distribution over K.
        attention: [n, G].
        centres: [d, K], shared by the groups.
    """
    n, G, K = assignment.shape
    sums = np.zeros(centres.shape)
    for k in range(K):
        for g in range(G):
            for t in range(n):
                sums[:, k] += attention[t, g] * assignment[t, g, k] * (vectors[t, g] - centres[:, k])
    return l2_normalize(sums, axis=0)


def nextvlad_layer(variables: Variables, rows: Array, groups: int) -> Array:
    """2019 B.12: one branch's vector [d * K] of one clip, D-major; batch norm over all G * K logits, group-major.

    Variables: fully_connected (expansion) [N, lambda N] and biases; fully_connected_1 (attention) [lambda N, G] and
    biases; cluster_weights [lambda N, G K]; cluster_bn [G K]; cluster_weights2 [1, d, K]; vlad_bn [d K].
    """
    centres = variables["cluster_weights2"][0]
    expanded = dense(variables, "fully_connected", rows)
    attention = sigmoid(dense(variables, "fully_connected_1", expanded))
    logits = batch_norm(variables, "cluster_bn", expanded @ variables["cluster_weights"])
    assignment = softmax(logits.reshape(len(rows), groups, centres.shape[1]))
    sums = residuals(expanded.reshape(len(rows), groups, centres.shape[0]), assignment, attention, centres)
    return batch_norm(variables, "vlad_bn", sums.reshape(-1))


def nextvlad_logits(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    groups: int,
    feature_sizes: tuple[int, int] = SIZES,
) -> Array:
    """2019 B.12: the model's logits [B, V]; the audio branch has half the clusters and half the groups.

    Variables: those of the layer below video_VLAD/ and audio_VLAD/; hidden1_weights, hidden1_bn; gating_weights_1
    [H, H/r], gating_bn [H/r], gating_weights_2 [H/r, H]; fully_connected/weights [H, V] and biases.
    """
    vectors = []
    for clip in clips(frames, num_frames):
        assert clip.shape[1] == sum(feature_sizes)
        video = nextvlad_layer(scoped(variables, "video_VLAD"), clip[:, : feature_sizes[0]], groups)
        audio = nextvlad_layer(scoped(variables, "audio_VLAD"), clip[:, feature_sizes[0] :], groups // 2)
        vectors.append(np.concatenate([video, audio]))
    hidden = batch_norm(variables, "hidden1_bn", np.stack(vectors) @ variables["hidden1_weights"])
    squeezed = relu(batch_norm(variables, "gating_bn", hidden @ variables["gating_weights_1"]))
    hidden = hidden * sigmoid(squeezed @ variables["gating_weights_2"])
    return dense(variables, "fully_connected", hidden)


def nextvlad(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    groups: int,
    feature_sizes: tuple[int, int] = SIZES,
) -> Array:
    """2019 B.12 NeXtVLADModel: the probabilities [B, V]."""
    return sigmoid(nextvlad_logits(variables, frames, num_frames, groups=groups, feature_sizes=feature_sizes))


def mix_nextvlad_logits(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    groups: int,
    num_branches: int = 3,
    mean_over_padding: bool = False,
    feature_sizes: tuple[int, int] = SIZES,
) -> tuple[Array, Array]:
    """2019 B.12 MixNeXtVLAD: the mixture's logits [B, V] and the branches' [M, B, V].

    The mixing weights read the mean of the real frames, or of all given time steps with `mean_over_padding`.
    Variables: those of NeXtVLAD below branch_0/, branch_1/, ...; mixture_bn [F]; mixture/weights [F, M] and biases.
    """
    branches = np.stack(
        [
            nextvlad_logits(
                scoped(variables, f"branch_{m}"), frames, num_frames, groups=groups, feature_sizes=feature_sizes
            )
            for m in range(num_branches)
        ]
    )
    lengths = [frames.shape[1]] * len(frames) if mean_over_padding else num_frames
    means = np.stack([clip.mean(axis=0) for clip in clips(frames, lengths)])
    weights = softmax(dense(variables, "mixture", batch_norm(variables, "mixture_bn", means)))
    mixture = np.zeros(branches[0].shape)
    for m in range(num_branches):
        mixture += weights[:, m : m + 1] * branches[m]
    return mixture, branches


def mix_nextvlad(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    groups: int,
    num_branches: int = 3,
    mean_over_padding: bool = False,
    feature_sizes: tuple[int, int] = SIZES,
) -> Array:
    """2019 B.12 MixNeXtVLAD: the mixture's probabilities [B, V]."""
    mixture, _ = mix_nextvlad_logits(
        variables,
        frames,
        num_frames,
        groups=groups,
        num_branches=num_branches,
        mean_over_padding=mean_over_padding,
        feature_sizes=feature_sizes,
    )
    return sigmoid(mixture)


def mix_losses(
    mixture: Array, branches: Array, labels: Array, *, temperature: float = 3.0, kl_weight: float = 9.0
) -> dict[str, float]:
    """2019 B.12: the terms of MixNeXtVLAD's loss from its logits, and their total.

    BCE(p) + sum over m of BCE(p_m) + lambda * mean over B of the sum over m of KL(softmax(z/T) || softmax(z_m/T)),
    where BCE is that of 2018 E.3. Nothing stops the gradient on the mixture's side.
    """
    teacher = softmax(mixture / temperature)
    kl = 0.0
    for branch in branches:
        student = softmax(branch / temperature)
        kl += float((teacher * (np.log(teacher) - np.log(student))).sum(axis=1).mean())
    mixture_bce = cross_entropy(sigmoid(mixture), labels)
    branch_bce = sum(cross_entropy(sigmoid(branch), labels) for branch in branches)
    return {
        "mixture": mixture_bce,
        "branches": branch_bce,
        "kl": kl,
        "total": mixture_bce + branch_bce + kl_weight * kl,
    }


def nextvlad_regularization(variables: Variables, l2: float = 1e-5) -> float:
    """2019 B.12: l2 * sum(W^2) / 2 over the weights and the biases of the classifier, of every branch of a mixture."""
    classifiers = [
        value
        for name, value in variables.items()
        if name.removesuffix("/weights").removesuffix("/biases").endswith("fully_connected") and "VLAD" not in name
    ]
    return l2 * sum(0.5 * float(np.square(value).sum()) for value in classifiers)
