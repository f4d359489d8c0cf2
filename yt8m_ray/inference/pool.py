"""A pool of workers over the videos of shards, on Ray: what prediction, evaluation and export share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from yt8m_ray.data.dataset import map_blocks, read_dataset
from yt8m_ray.data.features import FeatureSpec

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Videos that go through the model at once; a NetVLAD's frames of so many fill some 100 MB."""

CPUS_PER_WORKER = 0.5
"""Logical CPUs that a worker asks for, so that two of them and a reader fit a machine of two."""

PROGRESS_INTERVAL_S = 5.0


def map_videos(
    shards: Sequence[str],
    spec: FeatureSpec,
    worker: type,
    arguments: Sequence[Any],
    *,
    num_workers: int,
    num_done: Callable[[], int],
    labelled: bool = True,
    verify_checksums: bool = True,
) -> Iterator[pa.Table]:
    """Yields what the workers make of each block of the shards, in order, and logs progress.

    Args:
        shards: Paths.
        spec: What is read of each video.
        worker: A class; `worker(*arguments, device=...)(block)` returns a table.
        arguments: Paths among them are absolute: a worker's working directory is its own.
        num_workers: Processes.
        num_done: Tells how many videos the caller has taken so far.
        labelled: Whether labels are read too.
        verify_checksums: Compare the CRC-32C of every record.
    """
    started = reported = time.monotonic()
    dataset = read_dataset(shards, spec, verify_checksums=verify_checksums, labelled=labelled)
    for table in map_blocks(dataset, worker, arguments, num_workers=num_workers, cpus_per_worker=CPUS_PER_WORKER):
        yield table
        if time.monotonic() - reported > PROGRESS_INTERVAL_S:
            reported = time.monotonic()
            logger.info("%d videos, %.0f videos/s", num_done(), num_done() / (reported - started))
