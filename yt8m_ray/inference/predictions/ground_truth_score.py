"""Scores of predictions against ground truth: the GAP of the competition, and the mean that older tools call GAP."""

from __future__ import annotations

import itertools
import logging
from array import array
from typing import Any

import numpy as np

from yt8m_ray.inference.predictions.align_files import NUM_NAMED
from yt8m_ray.inference.predictions.ground_truth import GroundTruth
from yt8m_ray.inference.predictions.rows import Row
from yt8m_ray.metrics.average_precision import precision_sum, score_keys

logger = logging.getLogger(__name__)


class TruthScore:
    """Exact scores of the predictions that were added, over all videos of the truth; keeps 9 bytes a pair.

    A video of the truth without predictions counts with all its labels: none was found.
    """

    def __init__(self, truth: GroundTruth) -> None:
        self._truth = truth
        self._scores, self._hits = array("d"), bytearray()  # of all pairs
        self._predicted: set[str] = set()
        self._per_video_ap = self._precision = 0.0  # sums over videos
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

        They are gap (one ranking of all pairs, over the number of all labels), per_video_ap (the mean over videos with
        labels of the average precision of each one's ranking, over the number of its labels), hit_at_1 and perr (as
        `yt8m_ray.metrics`; perr is None where a video has more labels than classes listed), num_videos of the truth,
        missing (of these, without predictions) and unknown (predicted, not in the truth).

        Raises:
            ValueError: no video is in both, or the truth has no label.
        """
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
            "gap": precision_sum([keys]) / num_labels,
            "per_video_ap": self._per_video_ap / num_labelled,
            "hit_at_1": self._num_hits_at_1 / num_videos,
            "perr": self._precision / num_videos if self._is_perr_known else None,
            "num_videos": num_videos,
            "missing": num_missing,
            "unknown": self._num_unknown,
        }
