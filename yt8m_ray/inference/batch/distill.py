"""A teacher and shards -> a data set of its scores, on the Ray cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from yt8m_ray.artifacts.folder_manifest import folder_version
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.data.labels.soft_label_files import (
    LabelFormat,
    SoftLabelIndex,
    SoftLabelJob,
    encode_published,
    to_label_table,
)
from yt8m_ray.data.pipeline.batches import batches_of, to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.shard_reader import OnCorruptPolicy, ReadOptions
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.soft_label_parts import SoftLabelParts
from yt8m_ray.inference.batch.worker_pool import BATCH_SIZE, Answer, map_videos
from yt8m_ray.inference.predictor import Predictor, read_spec
from yt8m_ray.topk import check_scores, top_k

logger = logging.getLogger(__name__)

NUM_ENTRIES = 100
"""Entries a video by default: 430 bytes, and a student as good as with all (docs/results.md)."""


class BlockLabeller:
    """Labels the videos of a block: what each worker runs.

    Args:
        path: A checkpoint or a bundle, at the same place on every node.
        job: What is made.
        device: Where the model runs.
    """

    def __init__(self, path: Path, job: SoftLabelJob, *, device: str) -> None:
        self._predictor = Predictor.from_path(path, device=device)
        self._job = job

    def __call__(self, videos: PackedVideos) -> pa.Table | list[bytes]:
        """Returns the rows of N videos, or their framed records, in order."""
        parts = list(batches_of([videos], batch_size=BATCH_SIZE))
        if self._job.format == "tfrecord":
            return [record for part in parts for record in self._records(part)]
        return pa.concat_tables(map(self._rows, parts)) if parts else self._rows(videos)

    def _logits(self, videos: PackedVideos) -> torch.Tensor:
        predictor = self._predictor
        batch = to_batch(
            videos, spec=predictor.spec, normalize=predictor.normalize, device=predictor.device, labelled=False
        )
        with torch.inference_mode():
            logits: torch.Tensor = predictor.model(batch.frames, batch.num_frames)
        check_scores(logits, batch.video_ids)
        return logits.float()

    def _rows(self, videos: PackedVideos) -> pa.Table:
        logits, id_type = self._logits(videos), np.uint16 if self._job.num_classes <= 1 << 16 else np.uint32
        if self._job.format == "dense":
            scores, class_ids = torch.sigmoid(logits), np.empty((len(videos), 0), id_type)
        else:
            best = top_k(logits, self._job.num_entries)
            scores, class_ids = best.scores, best.class_ids.cpu().numpy().astype(id_type)
        return to_label_table(videos.records, videos.video_ids.tolist(), scores.half().cpu().numpy(), class_ids)

    def _records(self, videos: PackedVideos) -> Iterator[bytes]:
        scores = torch.sigmoid(self._logits(videos)).cpu().numpy()
        frame_ends, label_ends = np.cumsum(videos.num_frames), np.cumsum(videos.num_labels)
        frames, labels = np.split(videos.frames, frame_ends[:-1]), np.split(videos.labels, label_ends[:-1])
        for row, video_id in enumerate(videos.video_ids.tolist()):
            known = labels[row] if videos.is_labelled[row] else None
            yield frame_record(encode_published(video_id, frames[row], known, scores[row], spec=self._predictor.spec))


def choose_format(file_format: str, *, top: int | None, dense: bool) -> tuple[LabelFormat, int]:
    """Returns the format that the options of `jobs.distill` mean, and its entries a video (all classes but for `top`).

    Raises:
        ConfigError: they contradict each other.
    """
    if top is not None and top < 1:
        raise ConfigError(f"--top: expected at least 1, found {top}")
    if file_format == "tfrecord":
        if top is not None:
            raise ConfigError("--top: the published format holds all classes; remove it, or --format tfrecord")
        return "tfrecord", 0
    return ("dense", 0) if dense else ("top", NUM_ENTRIES if top is None else top)


def local_folder(output: str) -> Path:
    """Returns the absolute path of a folder; ConfigError where it is a URI."""
    if "://" in output:
        raise ConfigError(f"--output: expected a local folder, found {output}; copy it there when it is finished")
    return Path(output).absolute()


def label_shards(
    model_path: Path,
    shards: Sequence[str],
    output: Path,
    *,
    label_format: LabelFormat = "top",
    num_entries: int = NUM_ENTRIES,
    num_workers: int = 1,
    on_corrupt: OnCorruptPolicy = "fail",
) -> SoftLabelIndex:
    """Writes the teacher's scores of every video of the shards into a folder and returns its index.

    What is finished is kept by shard; the same call after an interruption labels the others alone.

    Args:
        model_path: The teacher: a checkpoint or a bundle, absolute, from `locate_model`.
        shards: Paths.
        output: The folder.
        label_format: `top` with the best entries, `dense` with all, or `tfrecord`, the published one.
        num_entries: Entries a video of `top`.
        num_workers: Processes that label.
        on_corrupt: What a bad record does: `skip` leaves it without labels.

    Raises:
        ConfigError: the folder holds other labels or the shards themselves, or the format does not fit the teacher.
        ValueError, OSError: the model or a shard cannot be read.
    """
    started = time.monotonic()
    spec = read_spec(model_path)
    if label_format == "tfrecord" and spec.is_video_level:
        raise ConfigError(
            f"--format tfrecord: expected a teacher of frames, found one of {', '.join(spec.sizes)}; the published "
            "format holds frame-level videos alone"
        )
    job = SoftLabelJob(
        teacher=folder_version(model_path),
        format=label_format,
        num_classes=spec.num_classes,
        num_entries=min(num_entries, spec.num_classes) if label_format == "top" else spec.num_classes,
    )
    parts = SoftLabelParts(output, job, shards)
    done = set(parts.done)
    left = [index for index in range(len(shards)) if index not in done]
    if done:
        logger.info("continuing: %d of %d shards were done", len(done), len(shards))
    num_videos = 0
    if left:
        answers = map_videos(
            [shards[index] for index in left],
            spec,
            BlockLabeller,
            (model_path, job),
            num_workers=num_workers,
            options=ReadOptions(labels="optional" if label_format == "tfrecord" else "ignored", on_corrupt=on_corrupt),
        )
        try:
            for answer in answers:
                num_videos += len(answer.records)
                _write(parts, answer, left)
        except BaseException:
            parts.abandon()
            raise
    index = parts.complete()
    elapsed, total = time.monotonic() - started, sum(shard.num_videos for shard in index.shards)
    logger.info(
        "%d videos of %d shards, %.0f bytes a video; %d of them in %.1f s: %.0f videos/s",
        total,
        len(index.shards),
        sum(shard.bytes for shard in index.shards) / max(total, 1),
        num_videos,
        elapsed,
        num_videos / elapsed,
    )
    return index


def _write(parts: SoftLabelParts, answer: Answer, indexes: Sequence[int]) -> None:
    """Adds a block to the files of its shards and finishes those that end with it; `indexes` number what was read."""
    labels = answer.result
    for shard in np.unique(answer.shards).tolist():
        rows = np.flatnonzero(answer.shards == shard)
        mine = labels.take(rows) if isinstance(labels, pa.Table) else [labels[row] for row in rows.tolist()]
        parts.write(indexes[shard], mine)
    for end in answer.ends:
        parts.write(indexes[end.shard], labels[:0])  # a shard may hold no video
        parts.finish(indexes[end.shard], num_records=end.num_records)
