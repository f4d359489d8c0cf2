from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.support.batch import make_batch
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.pipeline.batches import batches_of, prefetch, to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos

FRAMES = FeatureSpec({"rgb": 3, "audio": 2}, num_classes=6)
VIDEOS = FeatureSpec({"mean_rgb": 3, "mean_audio": 2}, num_classes=6)


def clip(name: str, num_frames: int, labels: list[int], *, seed: int = 0) -> VideoRow:
    frames = np.random.default_rng([seed, num_frames]).integers(0, 256, (num_frames, 5), dtype=np.uint8)
    return VideoRow(name, frames, np.array(labels, np.int32))


CLIPS = [clip("a", 4, [0, 5]), clip("b", 1, []), clip("c", 0, [2]), clip("d", 2, [1, 2, 3])]


def many(count: int, per_block: int) -> Iterator[PackedVideos]:
    for start in range(0, count, per_block):
        numbers = range(start, min(start + per_block, count))
        rows = [clip(str(number), 1 + number % 3, [number % 6]) for number in numbers]
        yield PackedVideos.from_rows(rows, FRAMES, shard=start, first_record=0)


def test_bytes_are_dequantized_as_published_and_padding_is_zero() -> None:
    batch = make_batch(CLIPS, FRAMES, normalize="none")

    assert batch.frames.shape == (4, 4, 5)
    expected = CLIPS[3].frames.astype(np.float64) * (4 / 255) + 4 / 512 - 2
    np.testing.assert_allclose(batch.frames[3, :2].numpy(), expected, atol=1e-6)
    assert not batch.frames[3, 2:].any()
    assert not batch.frames[2].any()


def test_frames_are_normalized_over_all_features_together() -> None:
    batch = make_batch(CLIPS, FRAMES, normalize="l2")

    raw = make_batch(CLIPS, FRAMES, normalize="none").frames[0]
    torch.testing.assert_close(batch.frames[0], raw / raw.norm(dim=-1, keepdim=True))


def test_labels_are_multi_hot() -> None:
    batch = make_batch(CLIPS, FRAMES)

    assert batch.labels is not None
    assert [row.nonzero().flatten().tolist() for row in batch.labels] == [[0, 5], [], [2], [1, 2, 3]]


def test_a_video_level_record_is_a_clip_of_one_float_frame() -> None:
    row = VideoRow("v", np.array([[3.0, 0.0, 0.0, 4.0, 0.0]], np.float32), np.array([1], np.int32))

    batch = make_batch([row, row], VIDEOS)

    assert batch.frames.shape == (2, 1, 5)
    torch.testing.assert_close(batch.frames[0, 0], torch.tensor([0.6, 0.0, 0.0, 0.8, 0.0]))


def test_a_batch_does_not_change_the_videos_it_was_made_from() -> None:
    row = VideoRow("v", np.array([[3.0, 0.0, 0.0, 4.0, 0.0]], np.float32), np.array([1], np.int32))
    packed = PackedVideos.from_rows([row], VIDEOS)

    to_batch(packed, spec=VIDEOS)

    assert packed.frames.tolist() == [[3.0, 0.0, 0.0, 4.0, 0.0]]


def test_no_videos_make_an_empty_batch() -> None:
    batch = to_batch(PackedVideos.from_rows([], FRAMES), spec=FRAMES)

    assert batch.frames.shape == (0, 1, 5)
    assert batch.labels is not None
    assert batch.labels.shape == (0, 6)


@pytest.mark.parametrize("window", [0, 1, 7, 40, 1000])
@pytest.mark.parametrize("per_block", [1, 5, 64])
def test_batches_are_full_and_hold_every_video_once(window: int, per_block: int) -> None:
    batches = list(batches_of(many(101, per_block), batch_size=8, shuffle_window=window, seed=(3,)))

    assert [len(batch) for batch in batches] == [8] * 12 + [5]
    drawn = [name for batch in batches for name in batch.video_ids]
    assert sorted(map(int, drawn)) == list(range(101))


def test_without_a_window_the_order_is_kept() -> None:
    batches = list(batches_of(many(23, 5), batch_size=4))

    assert [int(name) for batch in batches for name in batch.video_ids] == list(range(23))


def test_a_window_mixes_blocks_and_repeats_by_seed() -> None:
    def drawn(seed: int) -> list[str]:
        batches = batches_of(many(60, 10), batch_size=6, shuffle_window=30, seed=(seed,))
        return [name for batch in batches for name in batch.video_ids]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len({int(name) // 10 for name in drawn(1)[:12]}) > 1


def test_every_drawn_video_keeps_its_own_frames_and_labels() -> None:
    originals = {str(number): clip(str(number), 1 + number % 3, [number % 6]) for number in range(40)}

    for batch in batches_of(many(40, 7), batch_size=9, shuffle_window=20, seed=(5,)):
        starts = np.cumsum(batch.num_frames) - batch.num_frames
        for index, name in enumerate(batch.video_ids):
            frames = batch.frames[starts[index] : starts[index] + batch.num_frames[index]]
            np.testing.assert_array_equal(frames, originals[name].frames)
            assert batch.labels[index] == originals[name].labels[0]


def test_prefetched_batches_are_the_same_in_order() -> None:
    expected = [batch.video_ids.tolist() for batch in batches_of(many(50, 7), batch_size=8)]

    found = [batch.video_ids.tolist() for batch in prefetch(batches_of(many(50, 7), batch_size=8), depth=2)]

    assert found == expected


def test_an_error_in_the_other_thread_is_raised_behind_the_batches_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    batches = prefetch(failing())

    assert next(batches) == 1
    with pytest.raises(ValueError, match="broken"):
        next(batches)


def test_prefetching_stops_where_nobody_takes_batches_any_more() -> None:
    taken: list[int] = []
    is_done = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            for number in range(10_000):
                taken.append(number)
                yield number
        finally:
            is_done.set()

    batches = prefetch(numbers())
    next(batches)
    batches.close()  # type: ignore[attr-defined]

    assert is_done.wait(timeout=10)
    assert len(taken) < 10


def test_a_batch_keeps_its_frames_while_later_ones_are_drawn() -> None:
    batches = list(batches_of(many(200, 9), batch_size=8))
    again = [batch.frames.copy() for batch in batches_of(many(200, 9), batch_size=8)]

    for batch, frames in zip(batches, again, strict=True):
        np.testing.assert_array_equal(batch.frames, frames)


def test_a_block_is_let_go_when_its_window_is_dealt_out() -> None:
    kept: list[weakref.ref[np.ndarray]] = []

    def blocks() -> Iterator[PackedVideos]:
        for block in many(60, 6):
            kept.append(weakref.ref(block.frames))
            yield block

    alive = [
        sum(reference() is not None for reference in kept)
        for _ in batches_of(blocks(), batch_size=4, shuffle_window=18, seed=(1,))
    ]

    assert max(alive) <= 4  # the window's three blocks, and the one that filled it
