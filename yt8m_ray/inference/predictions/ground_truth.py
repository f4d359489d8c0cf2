"""Ground truth as CSV, a line a video: `VIDEO_ID,LABEL1 LABEL2`; with a header or, as published, without."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Sequence

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.labels.label_reader import read_labels
from yt8m_ray.data.pipeline.shard_reader import OnCorruptPolicy
from yt8m_ray.data.pipeline.unlabelled import unlabelled_message
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.reader import open_csv
from yt8m_ray.inference.predictions.writer import csv_line, written_aside

logger = logging.getLogger(__name__)

HEADER = b"VideoId,Labels\n"

# A word, not a label, follows the comma.
_HEADER_LINE = re.compile(r"[^,]*,\s*[A-Za-z]")

# The labels of each video, ascending.
GroundTruth = dict[str, Sequence[int]]


def read_truth(path: str) -> GroundTruth:
    """Returns the ground truth of a file, which may be in gzip or zip.

    Raises:
        ConfigError: there is no such local file.
        ValueError: it is empty, cannot be unpacked, has a malformed line, or a video twice.
    """
    if "://" in path or not os.path.isfile(path):
        raise ConfigError(f"truth: {path}: expected a local file of ground truth, VIDEO_ID,LABEL1 LABEL2")
    truth: GroundTruth = {}
    file = open_csv(path, is_scored=False, is_header=lambda line: bool(_HEADER_LINE.match(line)))
    for _, row in file.rows():
        if row.video_id in truth:
            first = list(truth).index(row.video_id)
            raise ValueError(f"{path}: video {row.video_id!r} is there twice: videos {first} and {len(truth)}")
        truth[row.video_id] = row.class_ids
    if not truth:
        raise ValueError(f"{path}: no videos")
    return truth


def write_truth(
    shards: Sequence[str],
    path: str,
    *,
    num_classes: int,
    has_header: bool = False,
    on_corrupt: OnCorruptPolicy = "fail",
) -> int:
    """Writes a line for each labelled video, in the order of the shards and their records, and returns how many.

    A video of no class has a line without labels; one without a list of labels has none, and is counted in a warning.

    Raises:
        ValueError: a bad record under `fail`, an id that the format cannot carry, or no video has labels.
        OSError: a shard cannot be read.
    """
    num_videos = num_unlabelled = num_rejected = 0

    def reject(error: CorruptRecordError) -> None:
        nonlocal num_rejected
        num_rejected += 1
        logger.warning("%s", error)

    with written_aside(path) as file:
        file.write(HEADER if has_header else b"")
        for shard in shards:
            skip = reject if on_corrupt == "skip" else None
            for block in read_labels(shard, num_classes=num_classes, on_corrupt=skip):
                labels = iter(block.labels.tolist())
                for video_id, count in zip(block.video_ids, block.num_labels.tolist(), strict=True):
                    file.write(csv_line(video_id, " ".join(map(str, itertools.islice(labels, count)))))
                num_videos += len(block.video_ids)
                num_unlabelled += block.num_unlabelled
        if num_unlabelled and not num_videos:  # in here, so that no empty file stays
            raise ValueError(unlabelled_message("shards", num_unlabelled))
    if num_unlabelled:
        logger.warning("%d of %d videos have no labels and are left out", num_unlabelled, num_unlabelled + num_videos)
    logger.info("%d videos of %d shards; left out: %d records", num_videos, len(shards), num_rejected)
    return num_videos
