"""Packed videos -> Batch: what happens to rows between the reader and the model."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch

from yt8m_ray.data.buffer_pool import shared_pool
from yt8m_ray.data.format.features import FeatureSpec, Normalization
from yt8m_ray.data.pipeline.normalize import normalize as normalize_frames
from yt8m_ray.data.pipeline.packed_videos import Allocate, PackedVideos
from yt8m_ray.schema import DEQUANTIZATION_OFFSET, DEQUANTIZATION_SCALE, Batch

T = TypeVar("T")

_LOOK_INTERVAL_S = 0.2  # how often a reader that waits for a batch asks `should_stop`


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
        shuffle_window: So many videos are gathered and dealt out at random, then the next ones; 0 keeps the order.
        pin_memory: Puts the frames into page-locked memory, which a GPU reads directly.
    """
    rng = np.random.default_rng(list(seed)) if shuffle_window else None
    allocate = _allocator(pin_memory)
    waiting: list[PackedVideos] = []
    num_waiting = 0
    # Ray's own shuffle buffer gives short batches in mid-stream, with which workers take different numbers of steps.
    for block in blocks:
        waiting.append(block)
        num_waiting += len(block)
        if num_waiting >= max(batch_size, shuffle_window):
            num_left = num_waiting % batch_size
            yield from _draw(waiting, num_waiting - num_left, batch_size, rng, allocate)
            num_waiting = num_left
    if num_waiting:
        yield from _draw(waiting, num_waiting, batch_size, rng, allocate)


def prefetch(batches: Iterable[T], *, depth: int = 1, should_stop: Callable[[], bool] = lambda: False) -> Iterator[T]:
    """Yields the same, prepared by another thread up to `depth` ahead; its errors are raised here.

    The batches end where the next one is not ready and `should_stop()` is true.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)  # None behind the last
    is_closed = threading.Event()

    # Looks up from time to time, so that the thread ends when nobody takes its batches any more.
    def put(item: T | BaseException | None) -> None:
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def prepare() -> None:
        try:
            for batch in batches:
                put(batch)
                if is_closed.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            put(error)

    # A daemon: at the end of the process it may wait for a block that never comes.
    threading.Thread(target=prepare, daemon=True).start()
    try:
        while True:
            try:
                item = ready.get(timeout=_LOOK_INTERVAL_S)
            except queue.Empty:
                if should_stop():
                    return
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_closed.set()


def _draw(
    waiting: list[PackedVideos], count: int, batch_size: int, rng: np.random.Generator | None, allocate: Allocate
) -> Iterator[PackedVideos]:
    """Yields `count` of the waiting videos in batches, at random or in their order; the others stay in `waiting`."""
    blocks = list(waiting)
    waiting.clear()
    places = np.concatenate(  # (block, row) of each video, in the order of drawing
        [np.stack([np.full(len(block), index), np.arange(len(block))], axis=1) for index, block in enumerate(blocks)]
    )
    if rng is not None:
        places = rng.permutation(places)
    if count < len(places):
        # Copied, so that no block is kept for a few of its videos: what is held is the window and a block.
        waiting.append(PackedVideos.gather(_by_block(blocks, places[count:])))
    for start in range(0, count, batch_size):
        yield PackedVideos.gather(_by_block(blocks, places[start : min(start + batch_size, count)]), allocate)


def _by_block(blocks: Sequence[PackedVideos], places: np.ndarray) -> list[tuple[PackedVideos, np.ndarray]]:
    return [(blocks[index], places[places[:, 0] == index, 1]) for index in np.unique(places[:, 0]).tolist()]


def _allocator(pin_memory: bool) -> Allocate:
    # Memory is used again when a batch is gone: to ask for new pages takes longer than to fill them.
    if pin_memory:  # torch's own cache, which also waits for copies to a GPU that are still under way
        return lambda num_bytes: torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()
    # The next power of two, so that batches of nearly one size share their memory.
    return lambda num_bytes: shared_pool(1 << max(num_bytes - 1, 1).bit_length()).take()[:num_bytes]


def to_batch(
    videos: PackedVideos,
    *,
    spec: FeatureSpec,
    normalize: Normalization = "l2",
    device: torch.device | str = "cpu",
    labelled: bool = True,
    transfer: Literal["uint8", "float32"] = "uint8",
) -> Batch:
    """Returns the videos on `device`, padded to their longest clip; B = 0 gives frames [0, 1, D].

    Stored bytes are transferred as they are, or as floats.
    """
    device = torch.device(device)
    # Frames stay uint8 and unpadded as long as they can: a quarter of the bytes. Padding comes after normalization, so
    # that a padded frame is exactly 0.
    flat = _to_float(videos.frames, device if transfer == "uint8" else torch.device("cpu")).to(device)
    normalize_frames(flat, spec.sizes, normalize)
    num_frames = _send(videos.num_frames, device)
    num_videos, longest = len(videos), int(videos.num_frames.max(initial=1))
    padded = flat
    if len(flat) < num_videos * longest:
        padded = flat.new_zeros(num_videos * longest, flat.shape[1])
        padded[_padded_positions(num_frames, longest, len(flat))] = flat
    frames = padded.view(num_videos, longest, flat.shape[1])
    labels = None
    if labelled:
        labels = torch.zeros(num_videos, spec.num_classes, device=device)
        rows = np.repeat(np.arange(num_videos), videos.num_labels)
        labels[_send(rows, device), _send(videos.labels.astype(np.int64), device)] = 1.0
    return Batch(frames, num_frames, labels, tuple(videos.video_ids))


def _to_float(frames: np.ndarray, device: torch.device) -> torch.Tensor:
    if frames.dtype == np.uint8:
        stored = torch.from_numpy(np.require(frames, requirements=["C", "W"]))
        flat = torch.empty(stored.shape, dtype=torch.float32, device=device)
        flat.copy_(stored.to(device, non_blocking=True))  # some 15 times faster on the CPU than arithmetic on uint8
        return flat.mul_(DEQUANTIZATION_SCALE).add_(DEQUANTIZATION_OFFSET)
    stored = torch.from_numpy(np.require(frames, np.float32, requirements=["C", "W"]))
    # A copy, since normalization changes it in place and the videos stay as they are.
    return stored.clone() if device.type == "cpu" else stored.to(device, non_blocking=True)


def _send(values: np.ndarray, device: torch.device) -> torch.Tensor:
    # Without waiting for what the device does meanwhile.
    return torch.from_numpy(values).to(device, non_blocking=True)


def _padded_positions(num_frames: torch.Tensor, longest: int, total: int) -> torch.Tensor:
    """Returns the row of each of the `total` frames, end to end, in clips of `longest` rows each."""
    # A frame is as many rows further down as the clips before it are shorter than the longest.
    gaps = torch.cumsum(longest - num_frames, dim=0) - (longest - num_frames)
    return torch.arange(total, device=num_frames.device) + torch.repeat_interleave(gaps, num_frames, output_size=total)
