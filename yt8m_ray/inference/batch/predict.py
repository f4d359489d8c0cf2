"""Shards -> a file of predictions, on the Ray cluster, in the order of the shards and of their records."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from yt8m_ray.data.pipeline.batches import batches_of
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.shard_reader import OnCorruptPolicy, ReadOptions
from yt8m_ray.inference.batch.resumable_output import PredictionParts
from yt8m_ray.inference.batch.worker_pool import BATCH_SIZE, Answer, map_videos
from yt8m_ray.inference.predictor import Predictor, model_version, read_spec
from yt8m_ray.topk import TopK

logger = logging.getLogger(__name__)


class BlockPredictor:
    """Predicts the videos of a block: what each worker runs.

    Args:
        path: A checkpoint or a bundle, at the same place on every node.
        top_k: Classes a video.
        ema: As in `Predictor.from_path`.
        device: Where the model runs.
    """

    def __init__(self, path: Path, top_k: int, ema: bool | None = None, *, device: str) -> None:
        self._predictor = Predictor.from_path(path, device=device, ema=ema)
        self._top_k = top_k

    def __call__(self, videos: PackedVideos) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Returns the ids, the class ids [N, K] and the scores [N, K] of N videos in the same order."""
        parts = [
            self._predictor.predict_packed(part, self._top_k) for part in batches_of([videos], batch_size=BATCH_SIZE)
        ]
        if not parts:
            return [], np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
        class_ids = torch.cat([part.class_ids for part in parts]).numpy()
        return list(videos.video_ids), class_ids, torch.cat([part.scores for part in parts]).numpy()


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
    """Writes the best classes of every video of the shards and returns the number of videos.

    What is finished is kept by shard in `OUTPUT.parts`; the same call after an interruption predicts the others alone.

    Args:
        model_path: A checkpoint or a bundle, absolute, from `locate_model`.
        shards: Paths; labels are not needed.
        output: The file, `.csv`, `.csv.gz` or `.parquet`; it appears when it is complete.
        top_k: Classes a video.
        num_workers: Processes that predict.
        on_corrupt: What a bad record does.
        ema: As in `Predictor.from_path`.

    Raises:
        ConfigError: `OUTPUT.parts` holds parts of another prediction.
        ValueError, OSError: the model or a shard cannot be read.
    """
    started = time.monotonic()
    spec = read_spec(model_path)
    parts = PredictionParts(output, model_version=model_version(model_path, ema=ema), shards=shards, top_k=top_k)
    num_before = parts.counts["num_videos"]
    left = [index for index in range(len(shards)) if index not in set(parts.done)]
    if parts.done:
        logger.info("continuing: %d of %d shards were done, %d videos", len(parts.done), len(shards), num_before)
    if left:
        answers = map_videos(
            [shards[index] for index in left],
            spec,
            BlockPredictor,
            (model_path, top_k, ema),
            num_workers=num_workers,
            options=ReadOptions(labels="ignored", on_corrupt=on_corrupt),
        )
        rejected: dict[int, Counter[str]] = {}
        try:
            for answer in answers:
                _write(parts, answer, left, rejected)
        except BaseException:
            parts.abandon()
            raise
    parts.join()
    counts, elapsed = parts.counts, time.monotonic() - started
    num_videos = counts.pop("num_videos", 0)
    logger.info(
        "%d videos of %d shards; %d of them in %.1f s: %.0f videos/s; left out: %s",
        num_videos,
        len(shards),
        num_videos - num_before,
        elapsed,
        (num_videos - num_before) / elapsed,
        ", ".join(f"{cause} {count}" for cause, count in sorted(counts.items())) or "none",
    )
    return num_videos


def _write(parts: PredictionParts, answer: Answer, indexes: Sequence[int], rejected: dict[int, Counter[str]]) -> None:
    """Adds a block to the parts of its shards and finishes those that end with it; `indexes` number what was read."""
    video_ids, class_ids, scores = answer.result
    for shard in np.unique(answer.shards).tolist():
        rows = np.flatnonzero(answer.shards == shard)
        best = TopK(class_ids=torch.from_numpy(class_ids[rows]), scores=torch.from_numpy(scores[rows]))
        parts.write(indexes[shard], [video_ids[row] for row in rows], best)
    for rejection in answer.rejections:
        rejected.setdefault(rejection.shard, Counter())[rejection.cause] += 1
    for end in answer.ends:
        parts.finish(indexes[end.shard], Counter(rejected.pop(end.shard, {})))
