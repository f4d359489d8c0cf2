"""Shards -> a file of predictions, on the Ray cluster, in the order of the shards and of their records."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from yt8m_ray.data.batch import PackedVideos, batches_of
from yt8m_ray.inference.pool import BATCH_SIZE, map_videos
from yt8m_ray.inference.predictor import Predictor, read_spec
from yt8m_ray.inference.submission import PARQUET_SCHEMA, SubmissionWriter, parquet_table
from yt8m_ray.topk import TopK

logger = logging.getLogger(__name__)


class BlockPredictor:
    """Predicts whole blocks of a dataset: what each worker runs.

    Args:
        path: A checkpoint or a bundle, at the same place on every node.
        top_k: Classes a video.
        device: Where the model runs.
    """

    def __init__(self, path: Path, top_k: int, *, device: str) -> None:
        self._predictor = Predictor.from_path(path, device=device)
        self._top_k = top_k

    def __call__(self, block: pa.Table) -> pa.Table:
        """Returns the columns video_id, class_ids and scores, one row a video in the same order."""
        videos = PackedVideos.from_block(block, self._predictor.spec)
        tables = [PARQUET_SCHEMA.empty_table()]
        for part in batches_of([videos], batch_size=BATCH_SIZE):
            tables.append(parquet_table(list(part.video_ids), self._predictor.predict_packed(part, self._top_k)))
        return pa.concat_tables(tables)


def predict_shards(
    model_path: Path, shards: Sequence[str], writer: SubmissionWriter, *, top_k: int = 20, num_workers: int = 1
) -> int:
    """Writes the best classes of every video of the shards and returns the number of videos.

    Args:
        model_path: A checkpoint or a bundle, absolute, from `locate_model`.
        shards: Paths; labels are not needed.
        writer: The file; it appears when it is complete.
        top_k: Classes a video.
        num_workers: Processes that predict.

    Raises:
        ValueError, OSError: the model or a shard cannot be read.
    """
    started = time.monotonic()
    blocks = map_videos(
        shards,
        read_spec(model_path),
        BlockPredictor,
        (model_path, top_k),
        num_workers=num_workers,
        num_done=lambda: writer.num_videos,
        labelled=False,
    )
    with writer:
        for block in blocks:
            if block.num_rows:
                writer.write(block["video_id"].to_pylist(), _top_k_of(block))
    logger.info("%d videos of %d shards in %.1f s", writer.num_videos, len(shards), time.monotonic() - started)
    return writer.num_videos


def _top_k_of(block: pa.Table) -> TopK:
    class_ids, scores = (block[name].combine_chunks().flatten().to_numpy() for name in ("class_ids", "scores"))
    return TopK(
        class_ids=torch.from_numpy(class_ids.astype(np.int64)).view(block.num_rows, -1),
        scores=torch.from_numpy(scores.copy()).view(block.num_rows, -1),
    )
