"""A teacher and shards -> a data set of its scores."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from yt8m_ray.artifacts.folder_manifest import folder_version
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.data.labels.soft_label_files import (
    LabelFormat,
    SoftLabelIndex,
    SoftLabelJob,
    encode_published,
    to_label_table,
)
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.resumable_output import SoftLabelParts
from yt8m_ray.inference.batch.worker_pool import batches_on_device, write_missing
from yt8m_ray.inference.predictor import Predictor, read_spec
from yt8m_ray.topk import top_k
from yt8m_ray.wording import counted

logger = logging.getLogger(__name__)

# Entries a video by default: 430 bytes, and a student as good as with all (docs/results.md).
NUM_ENTRIES = 100


def _label(predictor: Predictor, videos: PackedVideos, *, job: SoftLabelJob) -> pa.Table | list[bytes]:
    batches = batches_on_device(videos, predictor, predictor.device, labelled=False)
    # A block may have no video.
    logits = torch.cat([torch.empty(0, job.num_classes), *(predictor.logits(batch).cpu() for batch in batches)])
    if job.format == "tfrecord":
        return list(_records(videos, torch.sigmoid(logits).numpy(), predictor.spec))
    id_type = np.uint16 if job.num_classes <= 1 << 16 else np.uint32
    if job.format == "dense":
        scores, class_ids = torch.sigmoid(logits), np.empty((len(videos), 0), id_type)
    else:
        best = top_k(logits, job.num_entries)
        scores, class_ids = best.scores, best.class_ids.numpy().astype(id_type)
    # As float16, whose error is far below that of a teacher.
    return to_label_table(videos.records, videos.video_ids.tolist(), scores.half().numpy(), class_ids)


def _records(videos: PackedVideos, scores: np.ndarray, spec: FeatureSpec) -> Iterator[bytes]:
    frames = np.split(videos.frames, np.cumsum(videos.num_frames)[:-1])
    labels = np.split(videos.labels, np.cumsum(videos.num_labels)[:-1])
    for row, video_id in enumerate(videos.video_ids.tolist()):
        # None where labels are unknown: an empty list is a video of no class.
        known = labels[row] if videos.is_labelled[row] else None
        yield frame_record(encode_published(video_id, frames[row], known, scores[row], spec=spec))


def choose_format(file_format: str, *, top: int | None, dense: bool) -> tuple[LabelFormat, int]:
    """Returns the format that the options of `yt8m distill` mean, and its entries a video, 0 for all classes."""
    if top is not None and top < 1:
        raise ConfigError(f"top: expected at least 1, found {top}")
    if file_format == "tfrecord":
        if top is not None:
            raise ConfigError("top: the published format holds all classes; remove it, or format tfrecord")
        return "tfrecord", 0
    return ("dense", 0) if dense else ("top", NUM_ENTRIES if top is None else top)


def local_folder(output: str) -> Path:
    """Returns the absolute path of a folder; ConfigError where it is a URI."""
    if "://" in output:
        raise ConfigError(f"output: expected a local folder, found {output}; copy it there when it is finished")
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

    Finished shards are kept; the same call after an interruption, or with more shards, labels the others alone.

    Args:
        model_path: The teacher, from `locate_model`.
        label_format: `top` with the best entries, `dense` with all, or `tfrecord`, the published one.
        num_entries: Entries a video of `top`.

    Raises:
        ConfigError: the folder holds other labels or the shards themselves, or the format does not fit the teacher.
        ValueError, OSError: the model or a shard cannot be read.
    """
    started = time.monotonic()
    spec = read_spec(model_path)
    if label_format == "tfrecord" and spec.is_video_level:
        raise ConfigError(
            f"format tfrecord: expected a teacher of frames, found one of {', '.join(spec.sizes)}; the published "
            "format holds frame-level videos alone"
        )
    teacher, num_classes = folder_version(model_path), spec.num_classes
    # What is written, not what was asked for: a repeated call is compared with it.
    most = min(num_entries, num_classes) if label_format == "top" else num_classes
    job = SoftLabelJob(teacher=teacher, format=label_format, num_classes=num_classes, num_entries=most)
    parts = SoftLabelParts(output, job, shards)
    num_before = parts.num_videos
    write_missing(
        parts,
        shards,
        spec,
        functools.partial(Predictor.from_path, model_path),
        functools.partial(_label, job=job),
        num_workers=num_workers,
        options=ReadOptions(labels="optional" if label_format == "tfrecord" else "ignored", on_corrupt=on_corrupt),
    )
    num_videos, index, elapsed = parts.num_videos, parts.complete(), time.monotonic() - started
    num_new, bytes_each = num_videos - num_before, sum(shard.bytes for shard in index.shards) / max(num_videos, 1)
    message = "%d videos of %s, %.0f bytes a video; %d of them in %.1f s: %.0f videos/s"
    shards = counted(len(index.shards), "shard")
    logger.info(message, num_videos, shards, bytes_each, num_new, elapsed, num_new / elapsed)
    return index
