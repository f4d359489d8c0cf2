"""A checkpoint or bundle and labelled shards -> exact metrics."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yt8m_ray.artifacts.checkpoint import load_config
from yt8m_ray.config.evaluate import EvaluateConfig, EvaluateDataConfig
from yt8m_ray.data.errors import UNLABELLED
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.preflight import check_first_videos
from yt8m_ray.data.pipeline.read_position import CAUSES
from yt8m_ray.data.pipeline.shard_reader import ReadOptions
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.evaluation import Evaluation, evaluate
from yt8m_ray.inference.batch.worker_pool import batches_on_device, map_videos
from yt8m_ray.inference.predictor import Predictor, is_bundle, read_spec
from yt8m_ray.losses import build_loss
from yt8m_ray.registry import ComponentConfig


def _evaluate(predictor: Predictor, videos: PackedVideos, *, loss: ComponentConfig) -> Evaluation:
    batches = batches_on_device(videos, predictor, predictor.device)
    return evaluate(predictor.model, batches, build_loss(loss).to(predictor.device))


def evaluation_config(model_path: Path) -> EvaluateConfig:
    """Returns how a checkpoint or a bundle is evaluated by default: as its training was validated."""
    if is_bundle(model_path):
        return EvaluateConfig()
    config = load_config(model_path)
    read = config.data
    data = EvaluateDataConfig(test=read.test, verify_checksums=read.verify_checksums, on_corrupt=read.on_corrupt)
    return EvaluateConfig(data=data, loss=config.loss)


def evaluate_shards(model_path: Path, shards: Sequence[str], config: EvaluateConfig) -> dict[str, Any]:
    """Returns the metrics of `Evaluation.compute`, num_unlabelled, num_rejected, `rejected` by cause and videos_per_s.

    Arguments and errors as in `evaluation_of`.
    """
    started = time.monotonic()
    evaluation, left_out = evaluation_of(model_path, shards, config)
    rate = round(evaluation.num_videos / (time.monotonic() - started), 1)
    rejected = {cause: left_out[cause] for cause in CAUSES}
    counts = {"num_unlabelled": left_out[UNLABELLED], "num_rejected": sum(rejected.values()), "rejected": rejected}
    return {**evaluation.compute(), **counts, "videos_per_s": rate}


def shards_of(model_path: Path, config: EvaluateConfig) -> list[str]:
    """Returns the shards that an evaluation reads, whose first videos fit the model.

    Raises:
        NoShardsError: there is none.
        ValueError, OSError: the first videos do not fit, have no labels, or cannot be read.
    """
    shards = expand_shards(config.data.test, key="data.test")
    check_first_videos(shards, read_spec(model_path), _read_options(config), key="data.test")
    return shards


def _read_options(config: EvaluateConfig) -> ReadOptions:
    data = config.data
    return ReadOptions(verify_checksums=data.verify_checksums, labels="required", on_corrupt=data.on_corrupt)


def evaluation_of(model_path: Path, shards: Sequence[str], config: EvaluateConfig) -> tuple[Evaluation, Counter[str]]:
    """Returns the evaluation of every labelled video, which others can be added to, and what was left out by cause.

    Args:
        model_path: From `locate_model`.
        shards: From `shards_of`.

    Raises:
        ValueError, OSError: the model or a shard cannot be read, or the shards hold no video with labels.
    """
    evaluation = Evaluation()
    answers = map_videos(
        shards,
        read_spec(model_path),
        functools.partial(Predictor.from_path, model_path, ema=config.ema),
        functools.partial(_evaluate, loss=config.loss),
        num_workers=config.scaling.num_workers,
        options=_read_options(config),
        key="data.test",
    )
    left_out: Counter[str] = Counter()
    for answer in answers:
        evaluation.merge(answer.result)
        left_out.update(rejection.cause for rejection in answer.rejections)
    evaluation.check_scorable("data.test")
    return evaluation, left_out
