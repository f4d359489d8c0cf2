"""Ground truth as CSV, `VIDEO_ID,LABEL1 LABEL2` a line with a header or, as published, without; scores against it."""

from __future__ import annotations

import itertools
import logging
import os
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.labels.label_reader import read_labels
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy
from yt8m_ray.data.pipeline.read_position import unlabelled_message
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.align_files import NUM_NAMED
from yt8m_ray.inference.predictions.reader import open_csv
from yt8m_ray.inference.predictions.rows import Row
from yt8m_ray.inference.predictions.writer import csv_line, written_aside
from yt8m_ray.wording import counted

logger = logging.getLogger(__name__)

HEADER = b"VideoId,Labels\n"
# A word, not a label, follows the comma.
_HEADER_LINE = re.compile(r"[^,]*,\s*[A-Za-z]")
# The labels of each video, ascending.
GroundTruth = dict[str, Sequence[int]]


def read_truth(path: str) -> GroundTruth:
    """Returns the ground truth of a file, which may be in gzip or zip; ValueError where it is not sound."""
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
            for video_id, class_ids in read_labels(shard, num_classes=num_classes, on_corrupt=skip):
                if class_ids is None:
                    num_unlabelled += 1
                    continue
                file.write(csv_line(video_id, " ".join(map(str, class_ids))))
                num_videos += 1
        if num_unlabelled and not num_videos:  # in here, so that no empty file stays
            raise ValueError(unlabelled_message("shards", num_unlabelled))
    if num_unlabelled:
        logger.warning("%d of %d videos have no labels and are left out", num_unlabelled, num_unlabelled + num_videos)
    logger.info(
        "%s of %s; left out: %s", *map(counted, (num_videos, len(shards), num_rejected), ("video", "shard", "record"))
    )
    return num_videos


class TruthScore:
    """Exact scores of the predictions that were added, over all videos of the truth; keeps 9 bytes a pair.

    A video of the truth without predictions counts with all its labels: none was found.
    """

    def __init__(self, truth: GroundTruth) -> None:
        self._truth = truth
        # Of all pairs, in the order in which they came: GAP ranks them together at the end.
        self._scores, self._hits = array("d"), bytearray()
        self._predicted: set[str] = set()
        # Sums over videos.
        self._per_video_ap = self._precision = 0.0
        self._num_hits_at_1 = 0
        self._is_perr_known = True
        self._num_unknown = 0
        self._first_unknown: list[str] = []

    def add(self, row: Row) -> None:
        """Adds a video, once, with its classes best first."""
        labels = self._truth.get(row.video_id)
        if labels is None:  # no error: a file often covers more than the part whose labels are known
            self._num_unknown += 1
            if self._num_unknown <= NUM_NAMED:
                self._first_unknown.append(row.video_id)
            return
        self._predicted.add(row.video_id)
        hits = [class_id in labels for class_id in row.class_ids]
        self._scores.extend(row.scores)
        self._hits += bytes(hits)
        # PERR looks at as many classes as there are labels.
        self._is_perr_known &= len(hits) >= len(labels)
        if not any(hits):
            return
        num_hits, precisions, precise = 0, 0.0, 0
        for place, (is_hit, score) in enumerate(zip(hits, row.scores, strict=True)):
            if is_hit:
                num_hits += 1
                precisions += num_hits / (place + 1)
                # As `yt8m_ray.metrics` has it, a class with score 0 is no hit of PERR.
                precise += place < len(labels) and score > 0
        self._num_hits_at_1 += hits[0]
        self._per_video_ap += precisions / len(labels)
        self._precision += precise / len(labels)

    def document(self) -> dict[str, Any]:
        """Returns the scores, and warns of what did not match.

        They are gap (Kaggle's), per_video_ap (what older tools call GAP), hit_at_1 and perr (as in `yt8m_ray.metrics`;
        perr is None where a video has more labels than classes listed), num_videos of the truth, missing (of these,
        without predictions) and unknown (predicted, not in the truth). ValueError where no label can be scored.
        """
        # Here, as it imports torch, which takes a second, and many merges have no truth.
        from yt8m_ray.metrics.average_precision import precision_sum, score_keys

        num_videos = len(self._truth)
        num_labels, num_labelled = sum(map(len, self._truth.values())), sum(map(bool, self._truth.values()))
        if not num_labels:
            raise ValueError(f"truth: none of its {num_videos} videos has a label; nothing can be scored")
        num_missing = num_videos - len(self._predicted)
        if num_missing == num_videos:
            raise ValueError(f"truth: none of its {num_videos} videos is predicted")
        if num_missing:
            missing = (video_id for video_id in self._truth if video_id not in self._predicted)
            names = ", ".join(itertools.islice(missing, NUM_NAMED))
            logger.warning("%d videos of the truth have no predictions, and count so: %s", num_missing, names)
        if self._num_unknown:
            names = ", ".join(self._first_unknown)
            logger.warning("%d predicted videos are not in the truth, and left out: %s", self._num_unknown, names)
        if num_labelled < num_videos:
            num_empty = num_videos - num_labelled
            logger.warning("%d of %d videos of the truth list no label, and count as such", num_empty, num_videos)
        keys = score_keys(np.frombuffer(self._scores, np.float64), np.frombuffer(self._hits, np.bool_))
        return {
            # One ranking of all pairs.
            "gap": precision_sum([keys]) / num_labels,
            # A ranking a video, over the videos that have labels.
            "per_video_ap": self._per_video_ap / num_labelled,
            "hit_at_1": self._num_hits_at_1 / num_videos,
            "perr": self._precision / num_videos if self._is_perr_known else None,
            "num_videos": num_videos,
            "missing": num_missing,
            "unknown": self._num_unknown,
        }
