"""Dequantized frames -> what models see, by one named normalization.

The published features are PCA-whitened: every direction has about the same variance, also those that were hardly there
before. `unwhitened` undoes half of it, which NeXtVLAD's authors found worth undoing entirely (Lin et al. 2018,
arXiv:1811.05014, "reverse whitening").
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Literal

import numpy as np
import torch

from yt8m_ray.schema import FRAME_FEATURES, MEAN_PREFIX

Normalization = Literal["l2", "unwhitened", "none"]

_MIN_SQUARED_NORM = 1e-12  # what TensorFlow's l2_normalize divides by at least; a frame of zeros stays one


def normalize(frames: torch.Tensor, features: Mapping[str, int], kind: Normalization) -> torch.Tensor:
    """Returns frames [N, D] normalized in place.

    Args:
        frames: float32, the features side by side.
        features: Their sizes by name, in order.
        kind: `l2` divides a frame by its norm over all features, as the published systems do. `unwhitened` multiplies
            rgb by the fourth root of its PCA eigenvalues, then divides each feature by its own norm, and all by the
            root of their number. `none` changes nothing.
    """
    if kind == "l2":
        _divide_by_norm(frames)
    elif kind == "unwhitened":
        start = 0
        for name, size in features.items():
            feature = frames[:, start : start + size]
            if name.removeprefix(MEAN_PREFIX) == "rgb" and size == FRAME_FEATURES["rgb"]:
                feature *= _rgb_scales().to(frames.device)
            _divide_by_norm(feature)
            start += size
        frames *= len(features) ** -0.5
    return frames


def _divide_by_norm(frames: torch.Tensor) -> None:
    frames *= torch.rsqrt(torch.clamp_min(frames.square().sum(dim=-1, keepdim=True), _MIN_SQUARED_NORM))


@functools.cache
def _rgb_scales() -> torch.Tensor:
    with resources.files("yt8m_ray.data").joinpath("pca_eigenvalues.npy").open("rb") as file:
        eigenvalues = np.load(file, allow_pickle=False).ravel()[: FRAME_FEATURES["rgb"]]
    return torch.from_numpy(eigenvalues.astype(np.float64) ** 0.25).float()
