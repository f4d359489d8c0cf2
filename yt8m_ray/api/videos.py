"""Videos of shards for Python: one by one, as torch's IterableDataset, as a Ray Dataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from yt8m_ray.data.format.features import FeatureSpec, LabelPolicy, Normalization, VideoRow
from yt8m_ray.data.inspection.shard_counts import detect_features
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.schema import MAX_FRAMES, NUM_CLASSES_2018, VIDEO_FEATURES, Batch


class VideoDataset(IterableDataset[VideoRow]):
    """The videos of shards, each once over all ranks of torch.distributed and all workers of a DataLoader.

    `DataLoader(dataset, batch_size=64, collate_fn=dataset.collate)` gives batches for a model. Where there are fewer
    shards than readers, each reads all of them and takes every n-th video.

    Args:
        shards: Paths or globs; local, `s3://`, `gs://` or `sample://`.
        features: Sizes by name; None takes those of the first record.
        labels: `required` leaves videos without labels out, `optional` keeps them.
        on_corrupt: `fail` stops at a bad record with its place, `skip` leaves it out.

    Raises:
        NoShardsError: a pattern matches nothing.
        CorruptRecordError: while it is read.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        features: Mapping[str, int] | None = None,
        num_classes: int = NUM_CLASSES_2018,
        max_frames: int = MAX_FRAMES,
        normalize: Normalization = "l2",
        labels: LabelPolicy = "optional",
        on_corrupt: OnCorruptPolicy = "fail",
    ) -> None:
        super().__init__()
        self.shards = expand_shards(shards, key="shards")
        self.spec = FeatureSpec(features or detect_features(self.shards) or VIDEO_FEATURES, num_classes, max_frames)
        self.normalize: Normalization = normalize
        self.options = ReadOptions(labels=labels, on_corrupt=on_corrupt)

    def __iter__(self) -> Iterator[VideoRow]:
        reader, num_readers = _reader()
        shards, step = self.shards, num_readers
        if len(shards) >= num_readers:
            shards, reader, step = shards[reader::num_readers], 0, 1
        rows = itertools.chain.from_iterable(read_rows(shard, self.spec, self.options) for shard in shards)
        return (row for _, row in itertools.islice(rows, reader, None, step))

    def collate(self, videos: Sequence[VideoRow]) -> Batch:
        """Returns videos as a batch on the CPU: frames float32 [B, T, D], normalized and padded."""
        packed = PackedVideos.from_rows(videos, self.spec)
        return to_batch(packed, spec=self.spec, normalize=self.normalize, labelled=self.options.labels != "ignored")


def read_videos(shards: str | Sequence[str], **options: Any) -> Iterator[VideoRow]:
    """Yields the videos of shards in order: `video_id`, `frames`, `labels`; options and errors are `VideoDataset`'s."""
    return iter(VideoDataset(shards, **options))


def ray_dataset(shards: str | Sequence[str], **options: Any) -> Any:
    """Returns shards as a Ray Dataset with a row for each video: video_id, frames (bytes), num_frames, labels.

    Options and errors are `VideoDataset`'s.
    """
    # Late: Ray takes seconds to import, and reads the environment then.
    from yt8m_ray.data.pipeline.ray_dataset import read_dataset

    videos = VideoDataset(shards, **options)
    return read_dataset(videos.shards, videos.spec, videos.options).map_batches(_videos_of, batch_format="pyarrow")


def _videos_of(table: pa.Table) -> pa.Table:
    # The reader's remarks, on bad records and the ends of shards, stand in rows of their own.
    return table.filter(table["remark"].is_null()).drop_columns(["shard", "record", "remark", "message"])


def _reader() -> tuple[int, int]:
    """Returns (which, of how many) this process reads as."""
    rank, num_ranks = 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    worker = get_worker_info()
    if worker is None:
        return rank, num_ranks
    return rank * worker.num_workers + worker.id, num_ranks * worker.num_workers
