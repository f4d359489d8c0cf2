"""Shards -> ray.data.Dataset of the Arrow blocks of `packed_videos`. Only this module imports ray.data."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, ExecutionOptions
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from yt8m_ray.cluster import READ_CPUS, root_cause
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.tfrecord import read_payloads
from yt8m_ray.data.pipeline.packed_videos import Block, PackedVideos, ShardEnd, to_table
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.read_position import Position, epoch_order
from yt8m_ray.data.pipeline.shard_cache import read_tables
from yt8m_ray.data.storage.filesystem import open_stream, total_bytes
from yt8m_ray.errors import CarriedError, ClusterTooSmallError

_BLOCKS_A_PART = 20
_LEAST_BLOCK_BYTES = 2**10
_GPU_ROWS = 256  # videos of a call of a worker with a GPU; Ray gives whole blocks only to workers without
_SAMPLE_RECORDS = 32
_FRAMING_BYTES = 16  # of a record besides its payload: length and two checksums


def estimate_num_videos(shards: Sequence[str], options: ReadOptions = ReadOptions()) -> float:
    """Returns about how many videos the shards hold, from their sizes and the first records; for progress alone."""
    skip = None if options.on_corrupt == "fail" else lambda _: None
    for shard in shards:
        with open_stream(shard) as stream:
            records = read_payloads(stream, path=shard, verify_crc=options.verify_checksums, on_corrupt=skip)
            sizes = [len(payload) + _FRAMING_BYTES for _, _, payload in itertools.islice(records, _SAMPLE_RECORDS)]
        if sizes:
            return total_bytes(shards) * len(sizes) / sum(sizes)
    return 0.0


class ShardSource(Datasource):
    """One read task a shard; `read` gives its blocks, the other arguments are those of `read_dataset`."""

    # Ray's `read_tfrecords` needs TensorFlow, checks no checksum and loses the frames of a SequenceExample.

    def __init__(
        self,
        shards: Sequence[str],
        read: Callable[..., Iterator[pa.Table]],
        *,
        shuffle_seed: int | None,
        position: Callable[[], Position] | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shards, self._read = list(shards), read
        self._shuffle_seed, self._position = shuffle_seed, position

    def get_name(self) -> str:
        return "YouTube8MShards"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any | None = None
    ) -> list[ReadTask]:
        """Returns a task for each shard, in this epoch's order; Ray calls it once an epoch."""
        position = self._position() if self._position else Position()
        order: Sequence[int] = range(len(self._shards))
        if self._shuffle_seed is not None:
            order = epoch_order(len(self._shards), seed=self._shuffle_seed, epoch=position.epoch)
        tasks = []
        for index in order:
            path, skip, num_records = self._shards[index], position.records(index), position.num_records.get(index)
            read = functools.partial(self._read, path, shard=index, skip=skip, num_records=num_records)
            metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=(path,), exec_stats=None)
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


def read_dataset(
    shards: Sequence[str],
    spec: FeatureSpec,
    options: ReadOptions = ReadOptions(),
    *,
    num_parts: int = 1,
    shuffle_seed: int | None = None,
    position: Callable[[], Position] | None = None,
    cache: str | None = None,
) -> ray.data.Dataset:
    """Returns the shards as a Dataset whose blocks `packed_videos.from_table` understands.

    Args:
        shards: Paths; a row's `shard` column is the index in this list.
        options: `block_bytes` is the largest size of a block, which follows that of the data.
        num_parts: Readers of the blocks; more of them make blocks smaller, which shortens the wait for the last ones.
        shuffle_seed: Permutes the shards in each epoch; None keeps their order.
        position: Returns the `Position` to continue from, asked at the start of each epoch, by a process of Ray's;
            records that it marks are left out. None reads all.
        cache: A folder on each node for decoded shards; None keeps none.
    """
    num_blocks = _BLOCKS_A_PART * (2 * num_parts - 1)
    block_bytes = max(min(total_bytes(shards) // num_blocks, options.block_bytes), _LEAST_BLOCK_BYTES)
    options = dataclasses.replace(options, block_bytes=block_bytes)
    read = functools.partial(_read_tables, spec=spec, options=options, cache=cache)
    source = ShardSource(shards, read, shuffle_seed=shuffle_seed, position=position)
    dataset: ray.data.Dataset = ray.data.read_datasource(
        source,
        override_num_blocks=len(shards),
        num_cpus=READ_CPUS,
        # Ray keeps as many idle processes as there are CPUs and ends any others: more readers would be started
        # again and again, which takes seconds.
        concurrency=max(min(int(ray.cluster_resources().get("CPU", 1)), len(shards)), 1),
    )
    # Ray merges what a read task yields up to this size. Its default of 128 MB would make a shard one block, and the
    # last blocks of a pass are what leaves one worker with more videos than another.
    dataset.context.target_max_block_size = block_bytes
    dataset.context.enable_progress_bars = False  # the jobs report videos and rates, not tasks
    dataset.context.raise_original_map_exception = True  # else Ray's UserCodeException, which loses what was raised
    return dataset


def keep_order(dataset: ray.data.Dataset) -> None:
    """Makes a dataset's passes keep the order of their read tasks, whichever is done first."""
    dataset.context.execution_options = ExecutionOptions(preserve_order=True)


def split_dataset(dataset: ray.data.Dataset, num_parts: int) -> list[ray.data.DataIterator]:
    """Returns iterators that share out every row of each pass; blocks keep the order of their read tasks."""
    keep_order(dataset)
    # equal=True, Ray's way in training, drops up to a batch of rows to make the parts equal.
    parts: list[ray.data.DataIterator] = dataset.streaming_split(num_parts, equal=False)
    return parts


def map_blocks(
    dataset: ray.data.Dataset, worker: type, arguments: Sequence[Any], *, num_workers: int, cpus_per_worker: float
) -> Iterator[pa.Table]:
    """Yields `worker(*arguments, device=...)(block)` for every block, in order, computed by a pool of actors.

    Each has a GPU to itself, and the device `cuda`, where the cluster has one for every worker; blocks are then joined
    and cut into parts of one size.
    """
    cpus = ray.cluster_resources().get("CPU", 0.0)
    if num_workers * cpus_per_worker + READ_CPUS > cpus:
        raise ClusterTooSmallError(
            f"{num_workers} workers of {cpus_per_worker:g} CPUs and a reader of {READ_CPUS} do not fit the cluster's "
            f"{cpus:g} logical CPUs; ask for fewer workers"
        )
    # Passed to the workers: Ray hides no GPU from one that asked for none, so it cannot find out.
    has_gpus = ray.cluster_resources().get("GPU", 0.0) >= num_workers
    keep_order(dataset)
    mapped = dataset.map_batches(
        worker,
        batch_size=_GPU_ROWS if has_gpus else None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        fn_constructor_args=tuple(arguments),
        fn_constructor_kwargs={"device": "cuda" if has_gpus else "cpu"},
        compute=ActorPoolStrategy(size=num_workers),
        num_cpus=cpus_per_worker,
        num_gpus=1 if has_gpus else 0,
    )
    try:
        yield from mapped.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise root_cause(error) from None


def _read_tables(
    path: str,
    *,
    spec: FeatureSpec,
    options: ReadOptions,
    cache: str | None,
    shard: int,
    skip: np.ndarray,
    num_records: int | None,
) -> Iterator[pa.Table]:
    # A shard whose records are all done is not opened again; a task has to return something, which says so.
    if num_records is not None and len(skip) == num_records:
        yield to_table(Block(PackedVideos.from_rows([], spec), ends=[ShardEnd(shard, num_records)]))
        return
    with CarriedError.carrying():
        yield from read_tables(path, spec, options, folder=cache, shard=shard, skip=skip)
