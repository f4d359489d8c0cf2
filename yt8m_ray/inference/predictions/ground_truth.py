"""Ground truth as CSV, a line a video: `VIDEO_ID,LABEL1 LABEL2`; with a header or, as published, without."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence

import numpy as np

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.labels.label_reader import VideoLabels, read_labels
from yt8m_ray.data.pipeline.shard_reader import OnCorruptPolicy
from yt8m_ray.data.pipeline.unlabelled import unlabelled_message
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.file_content import FileContent
from yt8m_ray.inference.predictions.id_index import IdIndex
from yt8m_ray.inference.predictions.reader import open_lines
from yt8m_ray.inference.predictions.row_text import LineWriter
from yt8m_ray.inference.predictions.rows import PredictionRows, RowBuffer

logger = logging.getLogger(__name__)

HEADER = b"VideoId,Labels\n"

_MOST_READ = 1 << 16


class GroundTruth:
    """The labels of videos, in memory: some 80 bytes a video.

    Args:
        rows: Without scores; no id twice.

    Attributes:
        rows: As given.
        index: Finds a video's row.
    """

    def __init__(self, rows: PredictionRows) -> None:
        self.rows = rows
        self.index = IdIndex(rows.id_bytes, rows.id_bounds[:-1], np.diff(rows.id_bounds))

    def __len__(self) -> int:
        return len(self.rows)


def read_truth(path: str) -> GroundTruth:
    """Returns the ground truth of a file, which may be in gzip or zip.

    Its first line is a header if a word, not a label, follows the comma.

    Raises:
        ConfigError: there is no such local file.
        ValueError: it is empty or not to be unpacked, has a line that is none, or a video twice.
    """
    if "://" in path or not os.path.isfile(path):
        raise ConfigError(f"--score: {path}: expected a local file of ground truth, VIDEO_ID,LABEL1 LABEL2")
    lines = open_lines(FileContent(path), is_scored=False, is_header=_is_header)
    buffer = RowBuffer()
    while lines.read(buffer, _MOST_READ):
        pass
    truth = GroundTruth(buffer.rows())
    if not len(truth):
        raise ValueError(f"{path}: no videos")
    first, again = truth.index.twice
    if again >= 0:
        raise ValueError(f"{path}: video {truth.rows.video_id(first)!r} is there twice: videos {first} and {again}")
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

    Args:
        shards: Paths or URIs.
        path: The file; it appears when it is complete.
        num_classes: Valid class ids are 0..num_classes - 1.
        has_header: Whether a header comes first.
        on_corrupt: What a bad record does; one that is skipped is told.

    Raises:
        ValueError: a bad record under `fail`, an id that the format cannot carry, or no video has labels.
        OSError: a shard cannot be read.
    """
    aside = path + ".tmp"
    num_videos = num_unlabelled = num_rejected = 0
    writer = LineWriter(is_scored=False)

    def reject(error: CorruptRecordError) -> None:
        nonlocal num_rejected
        num_rejected += 1
        logger.warning("%s", error)

    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        with open(aside, "wb") as file:
            file.write(HEADER if has_header else b"")
            for shard in shards:
                skip = reject if on_corrupt == "skip" else None
                for block in read_labels(shard, num_classes=num_classes, on_corrupt=skip):
                    writer.write(_rows(block), file)
                    num_videos += len(block.video_ids)
                    num_unlabelled += block.num_unlabelled
        if num_unlabelled and not num_videos:
            raise ValueError(unlabelled_message("shards", num_unlabelled))
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it could not be opened
            os.unlink(aside)
        raise
    if num_unlabelled:
        logger.warning("%d of %d videos have no labels and are left out", num_unlabelled, num_unlabelled + num_videos)
    logger.info("%d videos of %d shards; left out: %d records", num_videos, len(shards), num_rejected)
    return num_videos


def _rows(block: VideoLabels) -> PredictionRows:
    encoded = [video_id.encode() for video_id in block.video_ids]
    id_bytes = np.frombuffer(b"".join(encoded), np.uint8)
    bounds = np.concatenate([[0], np.cumsum(block.num_labels)])
    no_scores = np.zeros(len(block.labels))
    return PredictionRows(id_bytes, np.cumsum([0, *map(len, encoded)]), block.labels, no_scores, bounds)


def _is_header(line: bytes) -> bool:
    return line.partition(b",")[2].strip()[:1].isalpha()
