"""Codebooks against the programs that the published one called: pandas, SciPy's vector quantization, scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.vq import vq
from sklearn.cluster import KMeans

from yt8m_ray.inference.quantization.codebooks import (
    CodebookName,
    codebook,
    kmeans_values,
    quantile_values,
    uniform_values,
)

VALUES = {"uniform": uniform_values, "quantile": quantile_values, "kmeans": kmeans_values}


def weights_of(kind: str, size: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(size)
    drawn = {
        "normal": lambda: rng.normal(size=size) * 1e-3,
        "heavy": lambda: rng.standard_t(2, size=size),
        "repeated": lambda: rng.integers(-400, 400, size) / 7,
        "few": lambda: rng.integers(0, 5, size) / 3,
        "two": lambda: rng.normal(size=2),
        "one": lambda: np.full(size, 0.25),
    }[kind]()
    return drawn.astype(np.float32)


KINDS = ["normal", "heavy", "repeated", "few", "two", "one"]


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_are_those_of_pandas_to_the_bit(kind: str) -> None:
    weights = weights_of(kind)

    assert np.array_equal(quantile_values(weights), pd.Series(weights).quantile(np.linspace(0, 1, 256)).to_numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", VALUES)
def test_codes_are_those_of_vector_quantization_to_the_bit(name: CodebookName, kind: str) -> None:
    weights = weights_of(kind)
    values = VALUES[name](weights)

    codes, stored = codebook(weights, name)

    assert np.array_equal(codes, vq(weights.astype(np.float64)[:, None], values[:, None])[0])
    assert np.array_equal(stored, values.astype(np.float32))
    assert np.all(np.diff(values) >= 0)


def test_a_weight_half_way_between_two_values_gets_the_lower_code() -> None:
    weights = np.array([-1, -0.5, 0, 0.3, 1], np.float32)

    assert codebook(weights, "uniform")[0].tolist() == [0, 64, 127, 166, 255]


@pytest.mark.parametrize("kind", ["normal", "heavy", "repeated"])
def test_the_squared_error_of_kmeans_is_at_most_that_of_scikit_learn(kind: str) -> None:
    weights = weights_of(kind, 8000)
    peer = KMeans(256, n_init=1, random_state=0).fit(weights.astype(np.float64)[:, None]).inertia_

    codes, values = codebook(weights, "kmeans")

    error = np.square(values.astype(np.float64)[codes] - weights).sum()
    assert error <= 1.001 * peer


def test_up_to_256_different_weights_come_back_as_they_are() -> None:
    weights = np.random.default_rng(0).choice(np.random.default_rng(1).normal(size=256).astype(np.float32), 5000)

    codes, values = codebook(weights, "kmeans")

    assert np.array_equal(values[codes], weights)


def test_codes_have_the_shape_of_the_weights() -> None:
    codes, values = codebook(weights_of("normal").reshape(30, 50, 2), "kmeans")

    assert (codes.shape, codes.dtype, values.shape, values.dtype) == ((30, 50, 2), np.uint8, (256,), np.float32)
