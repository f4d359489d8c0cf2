"""Packed videos -> Batch: what happens to rows between the reader and the model.

Frames stay uint8 and unpadded ("packed") until they are on the model's device; there they are dequantized, normalized
and padded to the longest clip of the batch. A padded frame is exactly 0, after normalization.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from yt8m_ray.data.buffers import shared_pool
from yt8m_ray.data.features import FeatureSpec, VideoRow
from yt8m_ray.data.normalize import Normalization
from yt8m_ray.data.normalize import normalize as normalize_frames
from yt8m_ray.data.packed import PackedVideos
from yt8m_ray.schema import DEQUANTIZATION_OFFSET, DEQUANTIZATION_SCALE, Batch

T = TypeVar("T")


def batches_of(
    blocks: Iterable[PackedVideos],
    *,
    batch_size: int,
    shuffle_window: int = 0,
    seed: Sequence[int] = (0,),
    pin_memory: bool = False,
) -> Iterator[PackedVideos]:
    """Yields batches of exactly `batch_size` videos; only the last may be smaller, and no video is lost.

    Args:
        blocks: Videos in reading order.
        batch_size: Videos a batch.
        shuffle_window: Each batch is drawn at random from at least this many videos (fewer at the end); 0 keeps order.
        seed: Seeds the draws.
        pin_memory: Puts the frames where a GPU fetches them by itself.
    """
    pool = _Pool(np.random.default_rng(list(seed)) if shuffle_window else None, _allocator(pin_memory))
    for block in blocks:
        pool.add(block)
        while len(pool) >= max(batch_size, shuffle_window):
            yield pool.draw(batch_size)
    while len(pool):
        yield pool.draw(batch_size)


def prefetch(batches: Iterable[T], *, depth: int = 1) -> Iterator[T]:
    """Yields the same, prepared by another thread up to `depth` ahead; its errors are raised here."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> None:
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def prepare() -> None:
        try:
            for batch in batches:
                put((batch, None))
                if is_closed.is_set():
                    return
            put((None, None))
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            put((None, error))

    threading.Thread(target=prepare, daemon=True).start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        is_closed.set()


class _Pool:
    """Videos of several blocks to draw from; a block is let go when its last video is drawn.

    Args:
        rng: Draws at random; None draws in the order in which videos were added.
        allocate: Gives memory for the frames of a batch.
    """

    def __init__(self, rng: np.random.Generator | None, allocate: Callable[[int], np.ndarray]) -> None:
        self._rng = rng
        self._allocate = allocate
        self._blocks: dict[int, PackedVideos] = {}
        self._num_left: dict[int, int] = {}
        self._num_added = 0
        self._waiting = np.empty((0, 2), np.int64)  # (block, row) of each video, in the order of drawing

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, block: PackedVideos) -> None:
        if not len(block):
            return
        key, self._num_added = self._num_added, self._num_added + 1
        self._blocks[key], self._num_left[key] = block, len(block)
        added = np.stack([np.full(len(block), key), np.arange(len(block))], axis=1)
        self._waiting = np.concatenate([self._waiting, added])
        if self._rng is not None:
            self._waiting = self._rng.permutation(self._waiting)

    def draw(self, count: int) -> PackedVideos:
        drawn, self._waiting = self._waiting[:count], self._waiting[count:]
        parts = [(self._blocks[key], drawn[drawn[:, 0] == key, 1]) for key in np.unique(drawn[:, 0]).tolist()]
        batch = PackedVideos.gather(parts, self._allocate)
        for key, rows in zip(np.unique(drawn[:, 0]).tolist(), [rows for _, rows in parts], strict=True):
            self._num_left[key] -= len(rows)
            if not self._num_left[key]:
                del self._blocks[key], self._num_left[key]
        return batch


def _allocator(pin_memory: bool) -> Callable[[int], np.ndarray]:
    """Returns a source of memory for batches that is used again when a batch is gone."""
    if not pin_memory:
        return lambda num_bytes: shared_pool(_rounded(num_bytes)).take()[:num_bytes]
    # torch's own cache, which also waits for copies to a GPU that are still under way
    return lambda num_bytes: torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()


def _rounded(num_bytes: int) -> int:
    """Returns the next power of two, so that batches of nearly one size share their memory."""
    return 1 << max(num_bytes - 1, 1).bit_length()


def to_batch(
    videos: PackedVideos,
    *,
    spec: FeatureSpec,
    normalize: Normalization = "l2",
    device: torch.device | str = "cpu",
    labelled: bool = True,
) -> Batch:
    """Returns the videos on `device`, padded to their longest clip; B = 0 gives frames [0, 1, D]."""
    device = torch.device(device)
    flat = _to_float(videos.frames, device)
    normalize_frames(flat, spec.sizes, normalize)
    num_frames = torch.from_numpy(videos.num_frames).to(device)
    num_videos, longest = len(videos), int(videos.num_frames.max(initial=1))
    if flat.shape[0] == num_videos * longest:
        frames = flat.view(num_videos, longest, flat.shape[1])
    else:
        frames = flat.new_zeros(num_videos * longest, flat.shape[1])
        frames[torch.from_numpy(_padded_positions(videos.num_frames, longest)).to(device)] = flat
        frames = frames.view(num_videos, longest, flat.shape[1])
    labels = None
    if labelled:
        labels = torch.zeros(num_videos, spec.num_classes, device=device)
        rows = np.repeat(np.arange(num_videos), videos.num_labels)
        labels[torch.from_numpy(rows).to(device), torch.from_numpy(videos.labels.astype(np.int64)).to(device)] = 1.0
    return Batch(frames, num_frames, labels, tuple(videos.video_ids))


def make_batch(
    rows: Sequence[VideoRow],
    spec: FeatureSpec,
    *,
    normalize: Normalization = "l2",
    device: torch.device | str = "cpu",
    labelled: bool = True,
) -> Batch:
    """Returns rows as one batch: the short way for a request or a test."""
    packed = PackedVideos.from_rows(rows, spec)
    return to_batch(packed, spec=spec, normalize=normalize, device=device, labelled=labelled)


def _to_float(frames: np.ndarray, device: torch.device) -> torch.Tensor:
    if frames.dtype == np.uint8:
        stored = torch.from_numpy(np.require(frames, requirements=["C", "W"]))
        flat = torch.empty(stored.shape, dtype=torch.float32, device=device)
        flat.copy_(stored.to(device, non_blocking=True))  # some 15 times faster on the CPU than arithmetic on uint8
        return flat.mul_(DEQUANTIZATION_SCALE).add_(DEQUANTIZATION_OFFSET)
    return torch.from_numpy(np.array(frames, dtype=np.float32)).to(device)


def _padded_positions(num_frames: np.ndarray, longest: int) -> np.ndarray:
    first_of_video: np.ndarray = np.repeat(np.arange(len(num_frames)) * longest, num_frames)
    positions: np.ndarray = first_of_video + _within(num_frames)
    return positions


def _within(counts: np.ndarray) -> np.ndarray:
    """Returns 0..count-1 for each count, end to end."""
    within: np.ndarray = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return within
