"""The published models on video-level features and on short sequences, in NumPy: 2019 B.6, B.7 and B.13."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from tests.published.heads import MOE, Head, moe
from tests.published.layers import Array, Variables, clips, cross_entropy, dense, l2_normalize, relu, scoped

SIZES = (1024, 128)  # of rgb and audio
FEATURES = ("mean", "std", "num_frames")  # 2305 of them; with std_all 2307; "cube_root" stands for "mean" in x3
SEQUENCES = ((1, 1, 20, 1), (5, 2, 33, 3), (3, 1, 50, 5), (5, 3, 20, 1))  # kernel, stride, frames, every n-th


def video_features(
    frames: Array,
    num_frames: Sequence[int],
    *,
    features: Sequence[str] = FEATURES,
    feature_sizes: tuple[int, int] = SIZES,
) -> Array:
    """2019 B.7: the named features [B, D] in the order given, each of rgb and then of audio.

    mean; std (of the population); cube_root, of the mean of x^3; num_frames, (n - 151) / 300; std_all, the standard
    deviation of all values of all frames.
    """
    computed = []
    for clip in clips(frames, num_frames):
        parts = (clip[:, : feature_sizes[0]], clip[:, feature_sizes[0] : sum(feature_sizes)])
        values: dict[str, list[Array]] = {
            "mean": [part.mean(axis=0) for part in parts],
            "std": [part.std(axis=0) for part in parts],
            "cube_root": [np.cbrt((part**3).mean(axis=0)) for part in parts],
            "num_frames": [np.array([(len(clip) - 151) / 300])],
            "std_all": [np.array([part.std()]) for part in parts],
        }
        computed.append(np.concatenate([value for name in features for value in values[name]]))
    return np.stack(computed)


def monn(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    num_mixtures: int = 3,
    features: Sequence[str] = FEATURES,
    feature_sizes: tuple[int, int] = SIZES,
) -> Array:
    """2019 B.7 MoNN2Lw, 3L, 3Lw, 4Ln: the gates read the features themselves, the experts hidden layers of them.

    Variables: hidden_1/weights and biases, hidden_2/..., as many as there are; gates/weights [D, V(M+1)];
    experts/weights [H, VM] and biases; columns as in 2018 B.2.
    """
    x = video_features(frames, num_frames, features=features, feature_sizes=feature_sizes)
    hidden = x
    for i in count(1):
        if f"hidden_{i}/weights" not in variables:
            break
        hidden = relu(dense(variables, f"hidden_{i}", hidden))
    return moe(variables, hidden, Head(num_mixtures=num_mixtures), gate_input=x)


def monn_regularization(variables: Variables, l2: float = 1e-8) -> float:
    """2019 B.7: l2 * sum(W^2) / 2 over all matrices."""
    matrices = [value for name, value in variables.items() if name.endswith("/weights")]
    return l2 * sum(0.5 * float(np.square(matrix).sum()) for matrix in matrices)


def cnn_sequences(frames: Array, num_frames: Sequence[int], starts: Sequence[int] = (0, 0, 0, 0)) -> list[Array]:
    """2019 B.6: the CNN's four sequences [B, S, F] from given starts; the last frame stands in for those beyond."""
    sequences = []
    for (_, _, length, every), start in zip(SEQUENCES, starts, strict=True):
        chosen = []
        for clip in clips(frames, num_frames):
            indices = [min(start + i, len(clip) - 1) for i in range(0, length, every)]
            chosen.append(np.stack([clip[i] for i in indices]))
        sequences.append(np.stack(chosen))
    return sequences


def cnn_mean_max(variables: Variables, sequences: Sequence[Array], *, head: Head = MOE) -> Array:
    """2019 B.6 CNN_4xMeanMax: probabilities [B, V] from sequences [B, S, F] of 20, 11, 10 and 20 frames.

    Of eight branches the first four are pooled by the mean and the last four by the maximum; with four sequences both
    halves read the same. Variables: conv_0 ... conv_7, each weights [kernel, F, C] and biases [C]; those of the MoE.
    """
    sequences = list(sequences) * 2 if len(sequences) == 4 else list(sequences)
    vectors = []
    for i, sequence in enumerate(sequences):
        kernel, stride, _, _ = SEQUENCES[i % 4]
        weights, biases = variables[f"conv_{i}/weights"], variables[f"conv_{i}/biases"]
        steps = []
        for first in range(0, sequence.shape[1] - kernel + 1, stride):
            total = np.zeros((len(sequence), weights.shape[2])) + biases
            for offset in range(kernel):
                total += sequence[:, first + offset] @ weights[offset]
            steps.append(relu(total))
        vectors.append(np.mean(steps, axis=0) if i < 4 else np.max(steps, axis=0))
    return moe(variables, np.concatenate(vectors, axis=1), head)


def chain_stages(variables: Variables, x: Array, *, head: Head = MOE) -> list[Array]:
    """2019 B.13 DeepCombineChain: the probabilities [B, V] of every layer and, last, of the final mixture.

    Variables: layer_0/gates/weights, layer_0/experts/{weights,biases}, layer_0/fully_connected/{weights [V, C],biases},
    layer_1/..., each layer's input wider by C; gates/weights and experts/{weights,biases} of the final mixture.
    """
    stages, u = [], np.asarray(x, np.float64)
    for i in count():
        layer = scoped(variables, f"layer_{i}")
        if not layer:
            break
        stages.append(moe(layer, u, head))
        relayed = l2_normalize(relu(dense(layer, "fully_connected", stages[-1])), axis=1)
        u = np.concatenate([u, relayed], axis=1)
    return [*stages, moe(variables, u, head)]


def chain(variables: Variables, frames: Array, num_frames: Sequence[int], *, head: Head = MOE) -> Array:
    """2019 B.13 DeepCombineChain on video-level features, given as clips of one frame."""
    return chain_stages(variables, frames[:, 0], head=head)[-1]


def chain_loss(stages: Sequence[Array], labels: Array, *, support: float = 0.025) -> float:
    """2019 B.13: (1 - q) CE(final) + q CE([p_1 .. p_L], the labels repeated), CE as in 2018 E.3."""
    *layers, final = stages
    repeated = np.concatenate([labels] * len(layers), axis=1)
    supported = cross_entropy(np.concatenate(layers, axis=1), repeated)
    return (1.0 - support) * cross_entropy(final, labels) + support * supported
