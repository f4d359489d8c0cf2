from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from yt8m_ray.data.pipeline.normalize import normalize
from yt8m_ray.schema import DEQUANTIZATION_OFFSET, DEQUANTIZATION_SCALE

FEATURES = {"mean_rgb": 1024, "mean_audio": 128}
EIGENVALUES = Path(__file__).parents[4] / "yt8m_ray" / "data" / "pipeline" / "pca_eigenvalues.npy"


def frames() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 1152)).astype(np.float32))


def test_l2_divides_by_the_norm_over_all_features() -> None:
    raw = frames().double().numpy()

    np.testing.assert_allclose(
        normalize(frames(), FEATURES, "l2"), raw / np.sqrt((raw**2).sum(axis=1, keepdims=True)), rtol=1e-5
    )


@pytest.mark.parametrize("features", [FEATURES, {"audio": 128, "rgb": 1024}])
def test_half_of_the_whitening_is_undone_before_each_feature_is_divided_by_its_own_norm(
    features: dict[str, int],
) -> None:
    raw, start = frames().double().numpy(), 0
    eigenvalues = np.load(EIGENVALUES).astype(np.float64).ravel()[:1024]
    for name, size in features.items():
        part = raw[:, start : start + size]
        if name.endswith("rgb"):
            part *= np.sqrt(np.sqrt(eigenvalues))
        part /= np.sqrt((part**2).sum(axis=1, keepdims=True)) * np.sqrt(2)
        start += size

    found = normalize(frames(), features, "unwhitened")

    np.testing.assert_allclose(found, raw, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("features", [FEATURES, {"audio": 128, "rgb": 1024}])
def test_reversing_the_whitening_scales_rgb_by_the_roots_of_its_eigenvalues_and_leaves_audio(
    features: dict[str, int],
) -> None:
    raw, start = frames().double().numpy(), 0
    eigenvalues = np.load(EIGENVALUES).astype(np.float64).ravel()[:1024]
    for name, size in features.items():
        if name.endswith("rgb"):
            for index in range(1024):
                column = start + index
                raw[:, column] = (raw[:, column] - 4 / 512) * (np.sqrt(eigenvalues[index]) + 1e-4)
        start += size

    np.testing.assert_allclose(normalize(frames(), features, "reverse_whitened"), raw, rtol=1e-5, atol=1e-7)


def test_the_eigenvalues_are_the_published_ones() -> None:
    eigenvalues = np.load(EIGENVALUES).ravel()

    assert eigenvalues[0] == pytest.approx(14.7385, abs=1e-4)
    assert eigenvalues[-1] == pytest.approx(0.00147678, abs=1e-8)


def test_a_dequantized_zero_is_one_after_reversing_the_whitening() -> None:
    zero = torch.full((1, 1024), 127.5 * DEQUANTIZATION_SCALE + DEQUANTIZATION_OFFSET)

    assert normalize(zero, {"rgb": 1024}, "reverse_whitened").abs().max() < 1e-6


def test_none_changes_nothing() -> None:
    assert torch.equal(normalize(frames(), FEATURES, "none"), frames())


@pytest.mark.parametrize("kind", ["l2", "unwhitened"])
def test_a_frame_of_zeros_stays_one(kind: str) -> None:
    assert not normalize(torch.zeros(2, 1152), FEATURES, kind).any()  # type: ignore[arg-type]


def test_a_feature_that_only_shares_the_name_has_no_eigenvalues() -> None:
    torch.testing.assert_close(normalize(torch.ones(1, 4), {"rgb": 4}, "unwhitened"), torch.full((1, 4), 0.5))
    torch.testing.assert_close(normalize(torch.ones(1, 4), {"rgb": 4}, "reverse_whitened"), torch.ones(1, 4))
