"""Shards -> a file of predictions, in the order of the shards and of their records."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.inference.batch.resumable_output import PredictionParts
from yt8m_ray.inference.batch.worker_pool import batches_on_device, write_missing
from yt8m_ray.inference.predictor import Predictor, model_version, read_spec
from yt8m_ray.topk import TopK
from yt8m_ray.wording import counted

logger = logging.getLogger(__name__)


def _predict(predictor: Predictor, videos: PackedVideos, *, top_k: int) -> tuple[list[str], TopK]:
    batches = batches_on_device(videos, predictor, predictor.device, labelled=False)
    parts = [predictor.predict(batch, top_k) for batch in batches]
    if not parts:  # a block may have no video
        return [], TopK(class_ids=torch.empty(0, 0, dtype=torch.int64), scores=torch.empty(0, 0))
    class_ids, scores = torch.cat([part.class_ids for part in parts]), torch.cat([part.scores for part in parts])
    return videos.video_ids.tolist(), TopK(class_ids=class_ids, scores=scores)


def predict_shards(
    model_path: Path,
    shards: Sequence[str],
    output: str,
    *,
    top_k: int = 20,
    num_workers: int = 1,
    on_corrupt: OnCorruptPolicy = "fail",
    ema: bool | None = None,
) -> int:
    """Writes the best classes of every video of the shards to `output` and returns the number of videos.

    Finished shards are kept in `OUTPUT.parts`; the same call after an interruption predicts the others alone, and
    another one is a ConfigError.

    Args:
        model_path: From `locate_model`.
        output: A `.csv`, `.csv.gz` or `.parquet` file; it appears when it is complete.
        ema: As in `Predictor.from_path`.
    """
    started = time.monotonic()
    parts = PredictionParts(output, model_version=model_version(model_path, ema=ema), shards=shards, top_k=top_k)
    num_before = parts.counts["num_videos"]
    write_missing(
        parts,
        shards,
        read_spec(model_path),
        functools.partial(Predictor.from_path, model_path, ema=ema),
        functools.partial(_predict, top_k=top_k),
        num_workers=num_workers,
        options=ReadOptions(labels="ignored", on_corrupt=on_corrupt),
    )
    parts.join()
    counts, elapsed = parts.counts, time.monotonic() - started
    num_videos = counts.pop("num_videos", 0)
    num_new = num_videos - num_before
    causes = ", ".join(f"{cause} {count}" for cause, count in sorted(counts.items())) or "none"
    message = "%d videos of %s; %d of them in %.1f s: %.0f videos/s; left out: %s"
    logger.info(message, num_videos, counted(len(shards), "shard"), num_new, elapsed, num_new / elapsed, causes)
    return num_videos
