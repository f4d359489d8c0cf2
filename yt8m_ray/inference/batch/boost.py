"""A model and the shards it learned from -> the weights of the videos for the next model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yt8m_ray.data.labels.video_weights import VideoWeights, boost, save_weights
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.worker_pool import batches_on_device, map_videos
from yt8m_ray.inference.predictor import Predictor, read_spec
from yt8m_ray.metrics.ranking_errors import ranking_errors

logger = logging.getLogger(__name__)


def _errors(predictor: Predictor, videos: PackedVideos) -> tuple[list[str], np.ndarray]:
    # A block may have no video.
    errors = [np.empty(0, np.float32)]
    for batch in batches_on_device(videos, predictor, predictor.device):
        assert batch.labels is not None
        errors.append(ranking_errors(predictor.logits(batch), batch.labels).cpu().numpy())
    return videos.video_ids.tolist(), np.concatenate(errors)


def boost_videos(
    model_path: Path,
    shards: Sequence[str],
    output: str,
    *,
    previous: str | None = None,
    max_weight: float | None = None,
    num_workers: int = 1,
    on_corrupt: OnCorruptPolicy = "fail",
) -> int:
    """Writes the weights of the videos of labelled shards to a Parquet file and returns their number.

    ValueError where a video has no previous weight, or the model is too weak.

    Args:
        model_path: From `locate_model`.
        previous: The weights that the model was trained with; None where it was trained without.
        max_weight: Larger weights are cut to this before they are divided by their mean.
    """
    try:
        weights_before = None if previous is None else VideoWeights.load(previous)
    except FileNotFoundError as error:
        raise ConfigError(f"previous: {error}") from None
    # By id: a video that is in the shards twice counts once.
    error_of: dict[str, float] = {}
    for answer in map_videos(
        shards,
        read_spec(model_path),
        functools.partial(Predictor.from_path, model_path),
        _errors,
        num_workers=num_workers,
        options=ReadOptions(labels="required", on_corrupt=on_corrupt),
    ):
        video_ids, found = answer.result
        error_of.update(zip(video_ids, found.tolist(), strict=True))
    video_ids, errors = list(error_of), np.array(list(error_of.values()))
    before = np.ones(len(video_ids)) if weights_before is None else weights_before.lookup(video_ids).astype(np.float64)
    weights = boost(before, errors, most=max_weight)
    save_weights(output, video_ids, weights)
    mean_error, least, most = np.average(errors, weights=before), weights.min(), weights.max()
    logger.info("%d videos: mean error %.4f, weights %.3f to %.3f", len(weights), mean_error, least, most)
    return len(weights)
