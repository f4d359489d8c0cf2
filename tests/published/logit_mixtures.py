"""The 2019 challenge's models whose experts are mixed as logits, in NumPy: 2019 B.2 to B.4, a PyTorch system.

Right where that system is not (2019 F.2): the softmax of the assignment is over the clusters of a group, means are over
the real frames. Kernels are [in, out] here as well, batch norm has PyTorch's epsilon, and rgb and audio come as given:
the published weights saw raw bytes (2019 B.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.published.heads import mix_logits
from tests.published.layers import (
    Array,
    Variables,
    batch_norm,
    clips,
    dense,
    l2_normalize,
    relu,
    scoped,
    sigmoid,
    softmax,
)
from tests.published.nextvlad import SIZES, residuals

EPSILON = 1e-5


def squeeze_excite(variables: Variables, scope: str, x: Array) -> Array:
    """2019 B.2 BNSE and BNSE1d: x * sigmoid(W2 BN(relu(W1 BN(x)))); x itself where the variables have no such scope.

    Variables: bn_1 [F], squeeze/weights [F, F/r] and biases, bn_2 [F/r], excite/weights [F/r, F] and biases.
    """
    parts = scoped(variables, scope)
    if not parts:
        return x
    squeezed = relu(dense(parts, "squeeze", batch_norm(parts, "bn_1", x, EPSILON)))
    return x * sigmoid(dense(parts, "excite", batch_norm(parts, "bn_2", squeezed, EPSILON)))


def nextvlad_layer(variables: Variables, rows: Array, groups: int) -> Array:
    """2019 B.3: one branch's vector [K * d] of one clip, cluster-major; one batch norm of K channels for all groups.

    Variables: fully_connected (expansion) [N, lambda N] and biases; fully_connected_1 (attention) [lambda N, G] and
    biases; cluster_weights [lambda N, G K] (column g * K + k); cluster_bn [K], or cluster_biases [G K] without batch
    norm; cluster_weights2 [1, d, K]; vlad_bn [K d].
    """
    centres = variables["cluster_weights2"][0]
    expanded = dense(variables, "fully_connected", l2_normalize(rows, axis=1))
    attention = sigmoid(dense(variables, "fully_connected_1", expanded))
    logits = expanded @ variables["cluster_weights"]
    if "cluster_biases" in variables:
        logits = logits + variables["cluster_biases"]
    logits = logits.reshape(len(rows), groups, centres.shape[1])
    if "cluster_biases" not in variables:
        logits = batch_norm(variables, "cluster_bn", logits, EPSILON)
    vectors = expanded.reshape(len(rows), groups, centres.shape[0])
    sums = residuals(vectors, softmax(logits), attention, centres)
    return batch_norm(variables, "vlad_bn", sums.T.reshape(-1), EPSILON)


def nextvlad_moe_logits(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    groups: int,
    num_mixtures: int = 4,
    per_class: bool = False,
    feature_sizes: tuple[int, int] = SIZES,
) -> Array:
    """2019 B.4 NeXtVLADModel: the logits [B, V]; the audio branch has half the clusters and as many groups.

    Variables: those of the layer below video_VLAD/ and audio_VLAD/; hidden1_weights, hidden1_biases; optionally
    video_se/ (see squeeze_excite); those of mix_logits.
    """
    vectors = []
    for clip in clips(frames, num_frames):
        assert clip.shape[1] == sum(feature_sizes)
        video = nextvlad_layer(scoped(variables, "video_VLAD"), clip[:, : feature_sizes[0]], groups)
        audio = nextvlad_layer(scoped(variables, "audio_VLAD"), clip[:, feature_sizes[0] :], groups)
        vectors.append(np.concatenate([video, audio]))
    hidden = relu(np.stack(vectors) @ variables["hidden1_weights"] + variables["hidden1_biases"])
    hidden = squeeze_excite(variables, "video_se", hidden)
    return mix_logits(variables, hidden, num_mixtures=num_mixtures, per_class=per_class, epsilon=EPSILON)


def nextvlad_moe(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    groups: int,
    num_mixtures: int = 4,
    per_class: bool = False,
    feature_sizes: tuple[int, int] = SIZES,
) -> Array:
    """2019 B.4 NeXtVLADModel: the probabilities [B, V]."""
    return sigmoid(
        nextvlad_moe_logits(
            variables,
            frames,
            num_frames,
            groups=groups,
            num_mixtures=num_mixtures,
            per_class=per_class,
            feature_sizes=feature_sizes,
        )
    )


def gated_dbof_moe_logits(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    num_mixtures: int = 4,
    per_class: bool = False,
) -> Array:
    """2019 B.4 GatedDBoFModel: the logits [B, V]; maximum and mean are over the real frames, in this order.

    Variables: fully_connected/weights [F, H] and biases; optionally frame_se/ and video_se/ (see squeeze_excite);
    pooled_bn [2H]; hidden1_weights [2H, D]; those of mix_logits.
    """
    pooled = []
    for clip in clips(frames, num_frames):
        rows = squeeze_excite(variables, "frame_se", relu(dense(variables, "fully_connected", clip)))
        pooled.append(np.concatenate([rows.max(axis=0), rows.mean(axis=0)]))
    hidden = relu(batch_norm(variables, "pooled_bn", np.stack(pooled), EPSILON) @ variables["hidden1_weights"])
    hidden = squeeze_excite(variables, "video_se", hidden)
    return mix_logits(variables, hidden, num_mixtures=num_mixtures, per_class=per_class, epsilon=EPSILON)


def gated_dbof_moe(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    num_mixtures: int = 4,
    per_class: bool = False,
) -> Array:
    """2019 B.4 GatedDBoFModel: the probabilities [B, V]."""
    return sigmoid(gated_dbof_moe_logits(variables, frames, num_frames, num_mixtures=num_mixtures, per_class=per_class))
