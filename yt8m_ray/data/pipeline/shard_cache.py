"""Decoded shards on local disk: the second epoch neither fetches, unpacks, verifies nor parses.

Each is about as large as the uncompressed shard, and stays until the folder is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.packed_videos import BLOCK_SCHEMA, to_table
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.data.storage.filesystem import from_uri

_VERSION = 2  # 1 had values that are not finite, and no difference between no labels and none known


def read_tables(
    path: str, spec: FeatureSpec, options: ReadOptions, *, folder: str | None, shard: int, skip: np.ndarray
) -> Iterator[pa.Table]:
    """Yields the blocks of a shard as tables, from `folder` where it holds them; else it holds them afterwards.

    Errors are those of `read_blocks`; with records to skip a shard is not put into the folder.
    """
    # A folder that cannot be written to is no error: the next epoch reads the shard again.
    entry = None if folder is None else Path(folder) / f"{_key(path, spec, options)}.arrow"
    if entry is not None and entry.exists():
        yield from _stored(entry, shard=shard, skip=skip)
        return
    tables = (to_table(block) for block in read_blocks(path, spec, options, shard=shard, skip=skip))
    yield from tables if entry is None or len(skip) else _store(tables, entry)


def _key(path: str, spec: FeatureSpec, options: ReadOptions) -> str:
    """Returns a name for what a shard decodes to: it changes with the file, the features and the options."""
    filesystem, location = from_uri(path)
    info = filesystem.get_file_info(location)
    facts = [_VERSION, path, info.size or 0, info.mtime_ns or 0]
    facts += [list(spec.sizes.items()), spec.num_classes, spec.max_frames, asdict(options)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _store(tables: Iterator[pa.Table], entry: Path) -> Iterator[pa.Table]:
    # Passed on and written aside; the file gets its name when the last table is written. The name aside is another one
    # each time, because trials on one node may read the same shard at once.
    aside = entry.with_suffix(f".{uuid.uuid4().hex}.tmp")
    writer: pa.ipc.RecordBatchFileWriter | None = None
    try:
        with contextlib.suppress(OSError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            writer = pa.ipc.new_file(str(aside), BLOCK_SCHEMA)
        for table in tables:
            try:
                if writer is not None:
                    writer.write_table(table)
            except OSError:  # the disk is full
                writer = None
            yield table
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
                os.replace(aside, entry)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _stored(entry: Path, *, shard: int, skip: np.ndarray) -> Iterator[pa.Table]:
    reader = pa.ipc.open_file(pa.memory_map(str(entry)))
    for index in range(reader.num_record_batches):
        table = pa.Table.from_batches([reader.get_batch(index)])
        # The index in the list of shards may be another one in this run.
        table = table.set_column(0, BLOCK_SCHEMA.field(0), pa.array(np.full(len(table), shard, np.int32)))
        if len(skip):
            is_wanted = pc.or_(pc.equal(table["remark"], "end").fill_null(False), ~np.isin(table["record"], skip))
            table = table.filter(is_wanted)
        yield table
