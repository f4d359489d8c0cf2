"""Rows of a table, as MLflow's servers and clients send them, -> videos; answers -> rows of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.format.video_input import read_video
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.topk import TopK

ID_COLUMN = "video_id"
# As in the answers of the service.
ANSWER_COLUMNS = ("video_id", "class_ids", "names", "scores")


def read_videos(records: Iterable[Mapping[str, Any]], spec: FeatureSpec) -> tuple[list[str], list[VideoRow]]:
    """Returns (ids as given, videos) of a table's rows; ValueError names the row and the column.

    Args:
        records: `video_id`, and each feature: the bytes of all frames as base64 text, or a mean as a list of numbers; a
            video-level model takes the frames of a mean, too.
        spec: What the model reads.
    """
    video_ids, rows = [], []
    for index, record in enumerate(records):
        # pandas and MLflow have None and NaN for a column that a row does not have.
        given = {
            name: value
            for name, value in record.items()
            if value is not None and not (isinstance(value, float) and math.isnan(value))
        }
        video_ids.append(str(given.get(ID_COLUMN, "")))
        rows.append(read_video(given, spec, f"row {index}"))
    return video_ids, rows


def answer_rows(video_ids: Sequence[str], best: TopK, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    """Yields a row a video with ANSWER_COLUMNS, classes best first."""
    class_ids, scores = best.class_ids.tolist(), best.scores.tolist()
    for video_id, ids, values in zip(video_ids, class_ids, scores, strict=True):
        row = (video_id, ids, [vocabulary.name(class_id) for class_id in ids], values)
        yield dict(zip(ANSWER_COLUMNS, row, strict=True))
