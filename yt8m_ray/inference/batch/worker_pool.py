"""A pool of workers over the videos of shards, on Ray: what prediction, evaluation and export share."""

from __future__ import annotations

import functools
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.packed_videos import PackedVideos, Rejection, ShardEnd, from_table
from yt8m_ray.data.pipeline.ray_dataset import map_blocks, read_dataset
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.data.pipeline.shard_reader import OnCorruptPolicy, ReadOptions
from yt8m_ray.data.pipeline.unlabelled import check_labelled
from yt8m_ray.errors import CarriedError
from yt8m_ray.topk import NaNScoresError

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
        messages: What is said of records that were left out.
    """

    result: Any
    shards: np.ndarray
    records: np.ndarray
    rejections: list[Rejection]
    ends: list[ShardEnd]
    messages: list[str]


class _Pooled:
    """A block worker as Ray runs it: tables in, tables out."""

    def __init__(
        self,
        worker: Callable[..., BlockWorker],
        arguments: Sequence[Any],
        spec: FeatureSpec,
        shards: Sequence[str],
        on_corrupt: OnCorruptPolicy,
        *,
        device: str,
    ) -> None:
        self._make = functools.partial(worker, *arguments, device=device)
        self._spec, self._shards, self._on_corrupt = spec, shards, on_corrupt

    @functools.cached_property
    def _compute(self) -> BlockWorker:
        # Made with the first block: of what an actor's constructor raises, Ray keeps the text alone.
        return self._make()

    def __call__(self, table: pa.Table) -> pa.Table:
        with CarriedError.carrying():
            return pa.table({"answer": pa.array([pickle.dumps(self._answer(table))], pa.large_binary())})

    def _answer(self, table: pa.Table) -> Answer:
        block = from_table(table, self._spec)
        videos, rejections, messages = block.videos, list(block.rejections), list[str]()
        try:
            result = self._compute(videos)
        except NaNScoresError:
            # Features that are finite, and so large that a model's sums are not: like any other value that is not one.
            found = self._nan_scores(videos)
            rejections += found.values()
            messages += [rejection.message for rejection in found.values()]
            videos = videos.select(np.setdiff1d(np.arange(len(videos)), list(found)))
            result = self._compute(videos)
        messages += [end.message for end in block.ends if end.message is not None]
        return Answer(result, videos.shards, videos.records, rejections, block.ends, messages)

    def _nan_scores(self, videos: PackedVideos) -> dict[int, Rejection]:
        """Returns a rejection for each video whose scores are NaN, by its row; raises the first where none is skipped.

        The videos are asked about one by one: those of one batch share an error.
        """
        found: dict[int, Rejection] = {}
        for row in range(len(videos)):
            video = videos.select(np.array([row]))
            try:
                self._compute(video)
            except NaNScoresError as error:
                shard, record = int(video.shards[0]), int(video.records[0])
                largest = np.abs(video.frames.astype(np.float64)).max(initial=0)
                message = f"{self._shards[shard]}: record {record}: {error}; its features reach {largest:.3g}"
                if self._on_corrupt == "fail":
                    raise ValueError(message) from None
                found[row] = Rejection(shard, record, "value", message)
        return found


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

    A video whose scores are NaN is a bad record.

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
    pooled = (worker, tuple(arguments), spec, list(shards), options.on_corrupt)
    for table in map_blocks(dataset, _Pooled, pooled, num_workers=num_workers, cpus_per_worker=CPUS_PER_WORKER):
        for state in table["answer"].to_pylist():
            answer: Answer = pickle.loads(state)
            done.add(answer.shards, answer.records)
            done.add_remarks(answer.rejections, answer.ends)
            for message in answer.messages:
                logger.warning("%s", message)
            yield answer
        if time.monotonic() - reported > PROGRESS_INTERVAL_S:
            reported = time.monotonic()
            num_videos = done.num_done - done.num_rejected
            logger.info("%d videos, %.0f videos/s", num_videos, num_videos / (reported - started))
    done.check_complete(shards)
    check_labelled(key, done)
