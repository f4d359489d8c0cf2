"""Reader processes without Ray: blocks of packed videos through shared memory, the least that delivery can cost."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing import shared_memory
from typing import Any

import numpy as np

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks

SLOT_BYTES = 4 << 20
NUM_SLOTS = 4


def _read(paths: list[tuple[int, str]], spec: FeatureSpec, names: list[str], free: Any, full: Any, start: Any) -> None:
    slots = [shared_memory.SharedMemory(name) for name in names]
    for _ in read_blocks(paths[0][1], spec):  # compiles, and touches its memory
        pass
    start.wait()
    for shard, path in paths:
        for block in read_blocks(path, spec, ReadOptions(block_bytes=SLOT_BYTES), shard=shard):
            videos = block.videos
            slot = free.get()
            np.ndarray(videos.frames.shape, np.uint8, slots[slot].buf)[:] = videos.frames
            facts = {name: getattr(videos, name) for name in PackedVideos.__dataclass_fields__ if name != "frames"}
            full.put((slot, videos.frames.shape, facts))
    full.put(None)
    for slot in slots:
        slot.close()


@contextlib.contextmanager
def raw_readers(paths: Sequence[str], spec: FeatureSpec, num_readers: int) -> Iterator[Iterator[PackedVideos]]:
    """Yields an iterator over the videos of all paths; each pack's frames are valid until the next is taken.

    A path may be given several times; its place in the list is the videos' shard.
    """
    context = multiprocessing.get_context("spawn")
    size = SLOT_BYTES + spec.max_frames * spec.dim * 2
    start, readers = context.Barrier(num_readers + 1), []
    for index in range(num_readers):
        slots = [shared_memory.SharedMemory(create=True, size=size) for _ in range(NUM_SLOTS)]
        free, full = context.SimpleQueue(), context.SimpleQueue()
        for slot in range(NUM_SLOTS):
            free.put(slot)
        arguments = (list(enumerate(paths))[index::num_readers], spec, [slot.name for slot in slots], free, full, start)
        process = context.Process(target=_read, args=arguments)
        process.start()
        readers.append((process, slots, free, full))
    start.wait()
    try:
        yield _take_turns(readers)
    finally:
        for process, slots, _, _ in readers:
            process.kill()
            process.join()
            for slot in slots:
                slot.close()
                slot.unlink()


def _take_turns(readers: list[Any]) -> Iterator[PackedVideos]:
    live = list(readers)
    while live:
        for reader in list(live):
            _, slots, free, full = reader
            message = full.get()
            if message is None:
                live.remove(reader)
                continue
            slot, shape, facts = message
            yield PackedVideos(frames=np.ndarray(shape, np.uint8, slots[slot].buf), **facts)
            free.put(slot)
