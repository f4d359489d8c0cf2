"""Weights of videos on Ray: those that the model errs on count more, and again in the next round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.integration.conftest import FEATURE_DIM, NUM_CLASSES, Shards
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.cli.main import call
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.labels.video_weights import VideoWeights, boost
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.boost import boost_videos
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.models import build_model

pytestmark = pytest.mark.usefixtures("ray_cluster")


def save_judge(folder: Path) -> Path:
    """Saves a model that knows the class prototypes of the shards: right about most videos, not about all."""
    document = {
        "run": {"name": "judge"},
        "data": {"features": {"mean_rgb": FEATURE_DIM}, "num_classes": NUM_CLASSES},
        "model": {"name": "logistic"},
    }
    config = TrainConfig.model_validate(document)
    model = build_model(config.model, feature_sizes=[FEATURE_DIM], num_classes=NUM_CLASSES)
    prototypes = torch.from_numpy(np.random.default_rng(0).normal(size=(NUM_CLASSES, FEATURE_DIM))).float()
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.ndim == 2).copy_(prototypes)
    folder.mkdir()
    save_checkpoint(folder, config=config, model=model, state={}, facts={})
    return folder


def errors_of(folder: Path, shards: list[str]) -> dict[str, float]:
    predictor = Predictor.from_path(folder)
    errors = {}
    for path in shards:
        rows = [row for _, row in read_rows(path, predictor.spec)]
        best = predictor.predict(rows, NUM_CLASSES).class_ids.tolist()
        for row, ranking in zip(rows, best, strict=True):
            ranks = sorted(ranking.index(class_id) + 1 for class_id in row.labels.tolist())
            errors[row.video_id] = 1 - float(np.mean([hits / rank for hits, rank in enumerate(ranks, start=1)]))
    return errors


def test_videos_are_weighed_by_their_errors_round_by_round(shards: Shards, tmp_path: Path) -> None:
    model, paths = save_judge(tmp_path / "judge"), expand_shards(shards.validation, key="shards")
    files = [str(tmp_path / f"round{number}.parquet") for number in (1, 2)]
    errors = errors_of(model, paths)
    first = boost(np.ones(len(errors)), np.array(list(errors.values())))

    assert boost_videos(model, paths, files[0]) == shards.num_validation
    assert boost_videos(model, paths, files[1], previous=files[0], max_weight=2.0) == shards.num_validation

    found = [VideoWeights.load(path).lookup(list(errors)) for path in files]
    assert found[0].tolist() == pytest.approx(first.tolist(), rel=1e-5)
    second = boost(first, np.array(list(errors.values())), most=2.0)
    assert found[1].tolist() == pytest.approx(second.tolist(), rel=1e-4)


def test_previous_weights_that_are_not_there_are_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"previous: .*nowhere"):
        boost_videos(tmp_path, [], str(tmp_path / "w.parquet"), previous=str(tmp_path / "nowhere"))


def test_previous_weights_that_lack_a_video_are_refused(shards: Shards, tmp_path: Path) -> None:
    model, paths = save_judge(tmp_path / "judge"), expand_shards(shards.validation, key="shards")
    boost_videos(model, paths[1:], str(tmp_path / "w.parquet"))
    with pytest.raises(ValueError, match=r"w.parquet: no weight for video 'v0_"):
        boost_videos(model, paths[:1], str(tmp_path / "next.parquet"), previous=str(tmp_path / "w.parquet"))
    assert not (tmp_path / "next.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "weights.csv"], r"--output: expected a local name that ends in .parquet, found 'weights.csv'"),
        (["--output", "w.parquet", "--max-weight", "0.5"], r"--max-weight: expected at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(["boost", str(save_judge(tmp_path / "judge")), "no.tfrecord", *options])
