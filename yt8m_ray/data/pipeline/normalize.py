"""Dequantized frames -> what models see, by one named normalization."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import resources

import numpy as np
import torch

from yt8m_ray.data.format.features import Normalization
from yt8m_ray.schema import FRAME_FEATURES, MEAN_PREFIX

_MIN_SQUARED_NORM = 1e-12  # what TensorFlow's l2_normalize divides by at least; a frame of zeros stays one
_REVERSED_OFFSET = 4 / 512  # as published: half a quantization step, what dequantizing leaves of a true 0
_REVERSED_FLOOR = 1e-4  # added to the roots of the eigenvalues, as published


def normalize(frames: torch.Tensor, features: Mapping[str, int], kind: Normalization) -> torch.Tensor:
    """Returns frames float32 [N, D], the features side by side, normalized in place; `none` leaves them as they are."""
    # The published features are PCA-whitened: every direction has about the same variance, also those that were hardly
    # there before. An eigenvalue is the variance that a direction had.
    if kind == "l2":  # over all features, as the published systems do
        _divide_by_norm(frames)
    elif kind == "unwhitened":
        # Half of the whitening is undone. Each feature has a norm of its own, and the frame has norm 1.
        for name, feature in _parts(frames, features):
            if _is_published_rgb(name, feature):
                feature *= _rgb_scales(0.25, 0.0, frames.device)
            _divide_by_norm(feature)
        frames *= len(features) ** -0.5
    elif kind == "reverse_whitened":
        # All of it is undone, as NeXtVLAD's authors do (Lin et al. 2018, arXiv:1811.05014); audio stays as it is, and
        # no norm is divided by.
        for name, feature in _parts(frames, features):
            if _is_published_rgb(name, feature):
                feature -= _REVERSED_OFFSET
                feature *= _rgb_scales(0.5, _REVERSED_FLOOR, frames.device)
    return frames


def _parts(frames: torch.Tensor, features: Mapping[str, int]) -> Iterator[tuple[str, torch.Tensor]]:
    return zip(features, frames.split(list(features.values()), dim=1), strict=True)


def _is_published_rgb(name: str, feature: torch.Tensor) -> bool:
    return name.removeprefix(MEAN_PREFIX) == "rgb" and feature.shape[1] == FRAME_FEATURES["rgb"]


def _divide_by_norm(frames: torch.Tensor) -> None:
    frames *= torch.rsqrt(torch.clamp_min(frames.square().sum(dim=-1, keepdim=True), _MIN_SQUARED_NORM))


@functools.cache
def _rgb_scales(power: float, floor: float, device: torch.device) -> torch.Tensor:
    # Cached, so that they are sent to the device once, not with each batch.
    with resources.files("yt8m_ray.data.pipeline").joinpath("pca_eigenvalues.npy").open("rb") as file:
        eigenvalues = np.load(file, allow_pickle=False).ravel()[: FRAME_FEATURES["rgb"]]
    return torch.from_numpy(eigenvalues.astype(np.float64) ** power + floor).float().to(device)
