"""Shards -> a file of predictions, on the Ray cluster, in the order of the shards and of their records."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from yt8m_ray.data.batch import PackedVideos
from yt8m_ray.data.dataset import expand_shards, map_blocks, read_dataset
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.inference.submission import PARQUET_SCHEMA, SubmissionWriter, parquet_table
from yt8m_ray.topk import TopK

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Videos that go through the model at once; a NetVLAD's frames of so many fill some 100 MB."""

CPUS_PER_WORKER = 0.5
"""Logical CPUs that a worker asks for, so that two of them and a reader fit a machine of two."""

PROGRESS_INTERVAL_S = 5.0


class BlockPredictor:
    """Predicts whole blocks of a dataset: what each worker runs.

    Args:
        path: A checkpoint or a bundle, at the same place on every node.
        top_k: Classes a video.
    """

    def __init__(self, path: str, top_k: int) -> None:
        self._predictor = Predictor.from_path(path)
        self._top_k = top_k

    def __call__(self, block: pa.Table) -> pa.Table:
        """Returns the columns video_id, class_ids and scores, one row a video in the same order."""
        videos = PackedVideos.from_block(block, self._predictor.spec)
        tables = [PARQUET_SCHEMA.empty_table()]
        for start in range(0, len(videos), BATCH_SIZE):
            part = videos.select(np.arange(start, min(start + BATCH_SIZE, len(videos))))
            tables.append(parquet_table(list(part.video_ids), self._predictor.predict_packed(part, self._top_k)))
        return pa.concat_tables(tables)


def predict_shards(
    model_path: str, patterns: Sequence[str], *, output: str, top_k: int = 20, num_workers: int = 1
) -> int:
    """Writes the best classes of every video of the shards to `output` and returns the number of videos.

    Args:
        model_path: A checkpoint or a bundle.
        patterns: Paths or globs of shards; labels are not needed.
        output: A .csv or .parquet file; it appears when it is complete.
        top_k: Classes a video.
        num_workers: Processes that predict.

    Raises:
        ConfigError: `output` has another suffix.
        ValueError, OSError: the model or a shard cannot be read.
    """
    writer = SubmissionWriter(output)
    shards = expand_shards(patterns, key="shards")
    spec = Predictor.from_path(model_path).spec
    started = reported = time.monotonic()
    blocks = map_blocks(
        read_dataset(shards, spec),
        BlockPredictor,
        (model_path, top_k),
        num_workers=num_workers,
        cpus_per_worker=CPUS_PER_WORKER,
    )
    with writer:
        for block in blocks:
            if block.num_rows:
                writer.write(block["video_id"].to_pylist(), _top_k_of(block))
            if time.monotonic() - reported > PROGRESS_INTERVAL_S:
                reported = time.monotonic()
                logger.info("%d videos, %.0f videos/s", writer.num_videos, writer.num_videos / (reported - started))
    logger.info("%d videos of %d shards in %.1f s", writer.num_videos, len(shards), time.monotonic() - started)
    return writer.num_videos


def _top_k_of(block: pa.Table) -> TopK:
    class_ids, scores = (block[name].combine_chunks().flatten().to_numpy() for name in ("class_ids", "scores"))
    return TopK(
        class_ids=torch.from_numpy(class_ids.astype(np.int64)).view(block.num_rows, -1),
        scores=torch.from_numpy(scores.copy()).view(block.num_rows, -1),
    )
