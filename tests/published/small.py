"""Small examples of the published models without golden outputs: form, variables and options of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.published import logit_mixtures, nextvlad, recurrent, shapes, video
from tests.published.golden import published_variable
from tests.published.layers import Array, Variables

SIZES, NUM_CLASSES, NUM_FRAMES = (8, 4), 5, (24, 7, 1)
DIM = sum(SIZES)
BRANCH = shapes.nextvlad(SIZES, 4, 4, 8, NUM_CLASSES, gating_reduction=2)


@dataclass(frozen=True)
class Example:
    """One model: `form(variables, frames, num_frames, **options)` gives its probabilities."""

    form: Any
    shapes: shapes.Shapes
    options: dict[str, Any] = field(default_factory=dict)

    def variables(self, c: float = 0.3) -> dict[str, Array]:
        return {name: published_variable(name, shape, c) for name, shape in self.shapes.items()}

    def __call__(self, frames: Array, num_frames: Sequence[int]) -> Array:
        return self.form(self.variables(), frames, num_frames, **self.options)


def cnn(variables: Variables, frames: Array, num_frames: Sequence[int]) -> Array:
    return video.cnn_mean_max(variables, video.cnn_sequences(frames, num_frames))


def small_frames(num_frames: Sequence[int] = NUM_FRAMES, dim: int = DIM) -> Array:
    """Returns random frames [B, T, D], zero beyond each clip's number."""
    frames = np.random.RandomState(1).randn(len(num_frames), max(num_frames), dim).astype(np.float32)
    for clip, n in zip(frames, num_frames, strict=True):
        clip[n:] = 0.0
    return frames


MIX_SHAPES = shapes.mix_nextvlad(BRANCH, DIM)
NEXTVLAD = {"groups": 4, "feature_sizes": SIZES}
STD_ALL = (*video.FEATURES, "std_all")
X3 = ("cube_root", "std", "num_frames", "std_all")
EXAMPLES = {
    "lstm_pair": Example(recurrent.lstm_pair, shapes.lstm_pair(DIM, 3, NUM_CLASSES)),
    "gru_dbof_hybrid": Example(recurrent.gru_dbof_hybrid, shapes.gru_dbof_hybrid(DIM, 4, 6, 3, NUM_CLASSES)),
    "teacher": Example(
        recurrent.hierarchical_lstm,
        shapes.hierarchical_lstm(DIM, 3, NUM_CLASSES),
        {"num_blocks": 4, "max_frames": 24},
    ),
    "student": Example(
        recurrent.hierarchical_lstm,
        shapes.hierarchical_lstm(DIM, 3, NUM_CLASSES),
        {"num_blocks": 5, "every_n": 2, "max_frames": 24},
    ),
    "nextvlad": Example(nextvlad.nextvlad, BRANCH, NEXTVLAD),
    "mix_nextvlad": Example(nextvlad.mix_nextvlad, MIX_SHAPES, NEXTVLAD),
    "nextvlad_moe": Example(
        logit_mixtures.nextvlad_moe, shapes.nextvlad_moe(SIZES, 4, 4, 8, NUM_CLASSES, reduction=2), NEXTVLAD
    ),
    "nextvlad_moe per class, biases, no gate": Example(
        logit_mixtures.nextvlad_moe,
        shapes.nextvlad_moe(SIZES, 4, 4, 8, NUM_CLASSES, num_mixtures=2, per_class=True, reduction=0, batch_norm=False),
        NEXTVLAD | {"num_mixtures": 2, "per_class": True},
    ),
    "gated_dbof_moe": Example(
        logit_mixtures.gated_dbof_moe,
        shapes.gated_dbof_moe(DIM, 8, 6, NUM_CLASSES, frame_reduction=4, reduction=2),
    ),
    "monn": Example(video.monn, shapes.monn(2 * DIM + 1, [7, 6, 5], NUM_CLASSES), {"feature_sizes": SIZES}),
    "monn with std_all": Example(
        video.monn,
        shapes.monn(2 * DIM + 3, [7, 6], NUM_CLASSES, 2),
        {"num_mixtures": 2, "features": STD_ALL, "feature_sizes": SIZES},
    ),
    "monn with cube roots": Example(
        video.monn, shapes.monn(2 * DIM + 3, [7], NUM_CLASSES), {"features": X3, "feature_sizes": SIZES}
    ),
    "cnn": Example(cnn, shapes.cnn_mean_max(DIM, 3, NUM_CLASSES)),
    "chain": Example(video.chain, shapes.chain(DIM, 3, 4, NUM_CLASSES)),
}
