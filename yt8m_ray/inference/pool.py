"""A pool of workers over the videos of shards, on Ray: what prediction, evaluation and export share."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from yt8m_ray.data.dataset import map_blocks, read_dataset
from yt8m_ray.data.features import FeatureSpec
from yt8m_ray.data.packed import PackedVideos, Rejection, ShardEnd, from_table
from yt8m_ray.data.position import Position
from yt8m_ray.data.reader import ReadOptions
from yt8m_ray.data.unlabelled import check_labelled

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Videos that go through the model at once; a NetVLAD's frames of so many fill some 100 MB."""

CPUS_PER_WORKER = 0.5
"""Logical CPUs that a worker asks for, so that two of them and a reader fit a machine of two."""

PROGRESS_INTERVAL_S = 5.0


class BlockWorker(Protocol):
    """What a worker runs; it is made with `device=...` besides its arguments."""

    def __call__(self, videos: PackedVideos) -> Any:
        """Returns anything that can be pickled; it stays within the cluster."""


@dataclass(frozen=True)
class Answer:
    """What a worker made of a block.

    Attributes:
        result: What the `BlockWorker` returned.
        shards: int32 [N], which shard each of its videos is from.
        records: int32 [N], and which record.
        rejections: Records that were left out.
        ends: Shards that end with this block.
    """

    result: Any
    shards: np.ndarray
    records: np.ndarray
    rejections: list[Rejection]
    ends: list[ShardEnd]


class _Pooled:
    """A block worker as Ray runs it: tables in, tables out."""

    def __init__(self, worker: Callable[..., BlockWorker], arguments: Sequence[Any], spec: FeatureSpec, *, device: str):
        self._compute = worker(*arguments, device=device)
        self._spec = spec

    def __call__(self, table: pa.Table) -> pa.Table:
        block = from_table(table, self._spec)
        videos = block.videos
        answer = Answer(self._compute(videos), videos.shards, videos.records, block.rejections, block.ends)
        return pa.table({"answer": pa.array([pickle.dumps(answer)], pa.large_binary())})


def map_videos(
    shards: Sequence[str],
    spec: FeatureSpec,
    worker: Callable[..., BlockWorker],
    arguments: Sequence[Any],
    *,
    num_workers: int,
    options: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
    key: str = "shards",
) -> Iterator[Answer]:
    """Yields what the workers make of each block of the shards, in order; logs progress and what was left out.

    Args:
        shards: Paths.
        spec: What is read of each video.
        worker: Made once in each process: `worker(*arguments, device=...)`.
        arguments: Paths among them are absolute: a worker's working directory is its own.
        num_workers: Processes.
        options: How the shards are read.
        key: Where the shards come from, for messages.

    Raises:
        AccountingError: after the last block, where a record did not arrive.
        ValueError, OSError: a shard cannot be read, or none of the videos has labels and they are required.
    """
    started = reported = time.monotonic()
    done = Position()
    dataset = read_dataset(shards, spec, options, num_parts=num_workers)
    pooled = (worker, tuple(arguments), spec)
    for table in map_blocks(dataset, _Pooled, pooled, num_workers=num_workers, cpus_per_worker=CPUS_PER_WORKER):
        for state in table["answer"].to_pylist():
            answer: Answer = pickle.loads(state)
            done.add(answer.shards, answer.records)
            done.add_remarks(answer.rejections, answer.ends)
            for end in answer.ends:
                if end.message is not None:
                    logger.warning("%s", end.message)
            yield answer
        if time.monotonic() - reported > PROGRESS_INTERVAL_S:
            reported = time.monotonic()
            num_videos = done.num_done - done.num_rejected
            logger.info("%d videos, %.0f videos/s", num_videos, num_videos / (reported - started))
    done.check_complete(shards)
    check_labelled(key, done)
