"""A pool of workers on Ray over the videos of shards, for prediction, evaluation and export."""

from __future__ import annotations

import functools
import logging
import pickle
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import torch

from yt8m_ray.config.data import DataConfig
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.batches import batches_of, to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos, Rejection, ShardEnd, from_table
from yt8m_ray.data.pipeline.ray_dataset import estimate_num_videos, map_blocks, read_dataset
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.data.pipeline.read_position import Position, check_labelled
from yt8m_ray.data.progress import progress_bar
from yt8m_ray.errors import CarriedError
from yt8m_ray.inference.batch.resumable_output import ResumableOutput
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.schema import Batch
from yt8m_ray.topk import NaNScoresError

M = TypeVar("M")

logger = logging.getLogger(__name__)

# Videos that go through the model at once; a NetVLAD's frames of so many fill some 100 MB.
BATCH_SIZE = 64
# Logical CPUs that a worker asks for, so that two of them and a reader fit a machine of two.
CPUS_PER_WORKER = 0.5
_LINE = "{n:.0f} of some {total:.0f} videos, {rate_noinv_fmt}, ETA {remaining}"


@dataclass(frozen=True)
class Answer:
    """What a worker made of a block of N videos."""

    result: Any
    # int32 [N]: the shard of each video, and its record in the shard.
    shards: np.ndarray
    records: np.ndarray
    # Records that were left out, shards that end with this block, and what to log of both.
    rejections: list[Rejection]
    ends: list[ShardEnd]
    messages: list[str]


def batches_on_device(
    videos: PackedVideos,
    reads: Predictor | DataConfig,
    device: torch.device | str,
    *,
    labelled: bool = True,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Batch]:
    """Yields the videos of a block in batches on `device`, normalized as a model `reads` them."""
    for part in batches_of([videos], batch_size=batch_size):
        yield to_batch(part, spec=reads.spec, normalize=reads.normalize, device=device, labelled=labelled)


@dataclass
class _Worker(Generic[M]):
    """What Ray runs in each process: the table of a block in, a table with one pickled `Answer` out."""

    load: Callable[..., M]
    compute: Callable[[M, PackedVideos], Any]
    spec: FeatureSpec
    shards: Sequence[str]
    on_corrupt: OnCorruptPolicy
    device: str

    @functools.cached_property
    def _model(self) -> M:
        # Loaded with the first block: of what an actor's constructor raises, Ray keeps the text alone.
        return self.load(device=self.device)

    def __call__(self, table: pa.Table) -> pa.Table:
        # Ray Data moves tables alone, so that an answer is a value of one; of an error it would keep the text alone.
        with CarriedError.carrying():
            return pa.table({"answer": pa.array([pickle.dumps(self._answer(table))], pa.large_binary())})

    def _answer(self, table: pa.Table) -> Answer:
        block = from_table(table, self.spec)
        videos, rejections, messages = block.videos, list(block.rejections), list[str]()
        try:
            result = self.compute(self._model, videos)
        except NaNScoresError:
            # Finite features, so large that a model's sums are not: a bad record like any other.
            found = self._nan_scores(videos)
            rejections += found.values()
            messages += [rejection.message for rejection in found.values()]
            videos = videos.select(np.setdiff1d(np.arange(len(videos)), list(found)))
            result = self.compute(self._model, videos)
        messages += [end.message for end in block.ends if end.message is not None]
        return Answer(result, videos.shards, videos.records, rejections, block.ends, messages)

    def _nan_scores(self, videos: PackedVideos) -> dict[int, Rejection]:
        """Returns the rejections of videos whose scores are NaN, by row; raises the first under `fail`."""
        found: dict[int, Rejection] = {}
        # One by one: the videos of a batch share an error.
        for row in range(len(videos)):
            video = videos.select(np.array([row]))
            try:
                self.compute(self._model, video)
            except NaNScoresError as error:
                shard, record = int(video.shards[0]), int(video.records[0])
                largest = np.abs(video.frames.astype(np.float64)).max(initial=0)
                message = f"{self.shards[shard]}: record {record}: {error}; its features reach {largest:.3g}"
                if self.on_corrupt == "fail":
                    raise ValueError(message) from None
                found[row] = Rejection(shard, record, "value", message)
        return found


def map_videos(
    shards: Sequence[str],
    spec: FeatureSpec,
    load: Callable[..., M],
    compute: Callable[[M, PackedVideos], Any],
    *,
    num_workers: int,
    options: ReadOptions = ReadOptions(),
    key: str = "shards",
) -> Iterator[Answer]:
    """Yields what the workers make of each block of the shards, in order; logs progress and what was left out.

    Args:
        spec: What is read of each video.
        load: `load(device=...)` returns a model, once in each process; paths in it are absolute, as each process has a
            working directory of its own.
        compute: Called with the model and the videos of a block; its result can be pickled. A video for which it raises
            NaNScoresError is a bad record.
        key: Where the shards come from, for messages.

    Raises:
        ValueError, OSError: a shard cannot be read, or none of the videos has labels and they are required.
    """
    done = Position()
    dataset = read_dataset(shards, spec, options, num_parts=num_workers)
    arguments = (load, compute, spec, list(shards), options.on_corrupt)
    # An estimate, which is why it says some.
    total = round(estimate_num_videos(list(shards), options)) or None
    with progress_bar(logger, _LINE, total=total, unit=" videos", leave=False) as bar:
        for table in map_blocks(dataset, _Worker, arguments, num_workers=num_workers, cpus_per_worker=CPUS_PER_WORKER):
            for state in table["answer"].to_pylist():
                # Unpickling runs code, but only our own workers write these.
                answer: Answer = pickle.loads(state)
                done.add(answer.shards, answer.records)
                done.add_remarks(answer.rejections, answer.ends)
                bar.update(len(answer.records))
                for message in answer.messages:
                    logger.warning("%s", message)
                yield answer
    # AccountingError unless every record of every shard has arrived, as a video or as a rejection.
    done.check_complete(shards)
    check_labelled(key, done)


def write_missing(
    output: ResumableOutput,
    shards: Sequence[str],
    spec: FeatureSpec,
    load: Callable[..., M],
    compute: Callable[[M, PackedVideos], Any],
    *,
    num_workers: int,
    options: ReadOptions,
) -> None:
    """Writes the results of those shards of `output` that it has not finished; an error leaves the finished ones."""
    done = output.done
    left = sorted(set(range(len(shards))).difference(done))
    if done:
        logger.info("continuing: %d of %d shards were done", len(done), len(shards))
    if not left:
        return
    paths = [shards[index] for index in left]
    # Of each shard that has not ended yet.
    rejected: dict[int, Counter[str]] = defaultdict(Counter)
    try:
        for answer in map_videos(paths, spec, load, compute, num_workers=num_workers, options=options):
            for rejection in answer.rejections:
                rejected[rejection.shard][rejection.cause] += 1
            # A shard that ends here may have no video in this block, or none at all.
            for shard in sorted({*answer.shards.tolist(), *(end.shard for end in answer.ends)}):
                output.write(left[shard], answer.result, np.flatnonzero(answer.shards == shard))
            for end in answer.ends:
                output.finish(left[end.shard], end.num_records, rejected.pop(end.shard, Counter()))
    # An interruption too.
    except BaseException:
        output.abandon()
        raise
