"""Predictions against ground truth: the GAP of the competition, and the mean that older tools call GAP."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from yt8m_ray.compiled import compiled
from yt8m_ray.inference.predictions.align_files import NUM_NAMED
from yt8m_ray.inference.predictions.ground_truth import GroundTruth
from yt8m_ray.inference.predictions.id_index import ABSENT
from yt8m_ray.inference.predictions.rows import PredictionRows
from yt8m_ray.metrics.average_precision import precision_sum, score_keys

logger = logging.getLogger(__name__)

_AP, _HITS_AT_1, _PRECISION = range(3)


class TruthScore:
    """Scores of the predictions that were added, over all videos of the truth.

    A video of the truth without predictions counts with all its labels: none was found. Predictions for other videos
    are left out, since a file often covers more than the part whose labels are known, and count as no errors. GAP is
    exact, so it keeps 8 bytes for each (video, class) pair.
    """

    def __init__(self, truth: GroundTruth) -> None:
        self._truth = truth
        self._keys: list[np.ndarray] = []
        self._is_predicted = np.zeros(len(truth), bool)
        self._sums = np.zeros(3)
        self._is_perr_known = True
        self._num_unknown = 0
        self._first_unknown: list[str] = []

    def add(self, rows: PredictionRows) -> None:
        """Adds videos, each once, with their classes best first."""
        found = self._truth.index.find(rows.id_bytes, rows.id_bounds)
        unknown = np.flatnonzero(found == ABSENT)
        self._num_unknown += len(unknown)
        room = NUM_NAMED - len(self._first_unknown)
        self._first_unknown += [rows.video_id(row) for row in unknown[:room].tolist()]
        self._is_predicted[found[found != ABSENT]] = True
        hits = np.empty(len(rows.class_ids), bool)
        truth = self._truth.rows
        num_pairs, is_perr_known = _score(
            found, (rows.class_ids, rows.scores, rows.bounds), (truth.class_ids, truth.bounds), hits, self._sums
        )
        self._is_perr_known &= is_perr_known
        is_known = np.repeat(found != ABSENT, np.diff(rows.bounds))
        assert np.count_nonzero(is_known) == num_pairs
        self._keys.append(score_keys(rows.scores[is_known], hits[is_known]))

    def document(self) -> dict[str, Any]:
        """Returns the scores, and warns of what did not match.

        Returns:
            gap: Kaggle's: one ranking of all pairs, divided by the number of all labels.
            per_video_ap: mean over the videos with labels of the average precision of the video's own ranking, divided
                by the number of its labels; older tools call this GAP.
            hit_at_1, perr: as `yt8m_ray.metrics`; perr is None where a video has more labels than classes listed.
            num_videos: of the truth; missing: of these without predictions; unknown: predicted, not in the truth.

        Raises:
            ValueError: no video is in both, or the truth has no label.
        """
        num_labels = np.diff(self._truth.rows.bounds)
        num_videos = len(self._truth)
        num_labelled = int(np.count_nonzero(num_labels))
        if not num_labelled:
            raise ValueError(f"--score: none of its {num_videos} videos has a label; nothing can be scored")
        missing = np.flatnonzero(~self._is_predicted)
        if len(missing) == num_videos:
            raise ValueError(f"--score: none of its {num_videos} videos is predicted")
        if len(missing):
            names = ", ".join(self._truth.rows.video_id(row) for row in missing[:NUM_NAMED].tolist())
            logger.warning("%d videos of the truth have no predictions, and count so: %s", len(missing), names)
        if self._num_unknown:
            names = ", ".join(self._first_unknown)
            logger.warning("%d predicted videos are not in the truth, and left out: %s", self._num_unknown, names)
        if num_labelled < num_videos:
            num_empty = num_videos - num_labelled
            logger.warning("%d of %d videos of the truth list no label, and count as such", num_empty, num_videos)
        return {
            "gap": precision_sum(self._keys) / int(num_labels.sum()),
            "per_video_ap": float(self._sums[_AP]) / num_labelled,
            "hit_at_1": float(self._sums[_HITS_AT_1]) / num_videos,
            "perr": float(self._sums[_PRECISION]) / num_videos if self._is_perr_known else None,
            "num_videos": num_videos,
            "missing": len(missing),
            "unknown": self._num_unknown,
        }


@compiled
def _score(
    found: np.ndarray,
    rows: Any,
    truth: Any,
    hits: np.ndarray,
    sums: np.ndarray,
) -> tuple[int, bool]:
    """Fills `hits` and adds to `sums`; returns (pairs of known videos, whether all classes that PERR needs are there).

    As `yt8m_ray.metrics` has it, a class with score 0 is no hit of PERR.
    """
    class_ids, scores, bounds = rows
    labels, label_bounds = truth
    num_pairs, is_perr_known = 0, True
    for row in range(len(found)):
        if found[row] < 0:
            continue
        first_label, last_label = label_bounds[found[row]], label_bounds[found[row] + 1]
        num_labels = last_label - first_label
        num_hits = precise = 0
        precisions = 0.0
        for pair in range(bounds[row], bounds[row + 1]):
            is_hit = False
            for label in range(first_label, last_label):
                is_hit |= labels[label] == class_ids[pair]
            hits[pair] = is_hit
            place = pair - bounds[row]
            if is_hit:
                num_hits += 1
                precisions += num_hits / (place + 1)
                precise += place < num_labels and scores[pair] > 0
                sums[1] += place == 0
        num_listed = bounds[row + 1] - bounds[row]
        num_pairs += num_listed
        is_perr_known &= num_listed >= num_labels
        sums[0] += precisions / max(num_labels, 1)
        sums[2] += precise / max(num_labels, 1)
    return num_pairs, is_perr_known
