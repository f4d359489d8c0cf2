"""The correlation of prediction files, beside dense vectors over the classes that either of two files lists."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yt8m_ray.inference.predictions.merge import correlation_table, merge_predictions

BASE = 2.12e-4


def save(path: Path, videos: dict[str, dict[int, float]]) -> str:
    path.write_text("".join(f"{v},{' '.join(f'{c} {s!r}' for c, s in pairs.items())}\n" for v, pairs in videos.items()))
    return str(path)


def correlation_of(folder: Path, *files: dict[str, dict[int, float]]) -> list[list[Any]]:
    paths = [save(folder / f"{number}.csv", videos) for number, videos in enumerate(files)]
    document = merge_predictions(paths, has_correlation=True)
    assert document["correlation"]["files"] == paths
    matrix: list[list[Any]] = document["correlation"]["matrix"]
    return matrix


def dense_correlation(one: dict[str, dict[int, float]], other: dict[str, dict[int, float]]) -> float:
    cosines = []
    for video in one.keys() & other.keys():
        union = sorted(one[video].keys() | other[video].keys())
        first, second = (np.array([scores[video].get(c, 0.0) - BASE for c in union]) for scores in (one, other))
        cosines.append(first @ second / np.sqrt((first @ first) * (second @ second)))
    return float(np.mean(cosines))


def test_the_matrix_is_that_of_dense_vectors(tmp_path: Path) -> None:
    rng = random.Random(0)
    ids = [f"v{number}" for number in range(800)]
    files = [
        {
            video: {c: rng.choice((BASE, 0.0, rng.random())) for c in rng.sample(range(40), rng.randint(1, 20))}
            for video in some
        }
        for some in (ids, ids[100:], rng.sample(ids, 500))
    ]
    matrix = correlation_of(tmp_path, *files)
    for one, other in itertools.product(range(3), repeat=2):
        if one != other:
            assert matrix[one][other] == pytest.approx(dense_correlation(files[one], files[other]), abs=1e-12)


def test_a_file_correlates_with_itself_and_with_its_multiple(tmp_path: Path) -> None:
    file = {"v": {1: 0.5, 2: 0.25}, "w": {3: 0.125}}
    (_, same), (_, itself) = correlation_of(tmp_path, file, dict(file))
    assert same == pytest.approx(1.0) and itself == pytest.approx(1.0)


def test_the_matrix_is_symmetric_where_the_published_one_was_not(tmp_path: Path) -> None:
    matrix = correlation_of(tmp_path, {"v": {1: 0.5}}, {"v": {1: 0.5, 2: 0.5}})
    # Its sum over the first file's classes alone is 1 one way, and 1/2 the other.
    assert matrix[0][1] == matrix[1][0] == pytest.approx(2**-0.5, abs=1e-3)


def test_files_without_a_video_in_common_have_no_correlation(tmp_path: Path) -> None:
    matrix = correlation_of(tmp_path, {"v": {1: 0.5}}, {"w": {1: 0.5}})
    assert matrix[0][1] is None and matrix[0][0] == pytest.approx(1.0)
    assert correlation_table(["a.csv", "b.csv"], matrix).splitlines()[1].split() == ["1", "a.csv", "1.0000", "nan"]
