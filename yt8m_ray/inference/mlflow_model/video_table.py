"""The rows of a table, as MLflow's servers and clients send them, -> videos; and answers -> the rows of a table."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.example import Fields
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.schema import ID_KEYS, MEAN_PREFIX
from yt8m_ray.topk import TopK

ID_COLUMN = "video_id"
ANSWER_COLUMNS = ("video_id", "class_ids", "names", "scores")

_NO_ID = b"-"  # stands for the id of a video without one: optional here, required in a shard


def read_videos(records: Iterable[Mapping[str, Any]], spec: FeatureSpec) -> tuple[list[str], list[VideoRow]]:
    """Returns (ids as given, videos) of a table's rows.

    Args:
        records: `video_id`, and each feature: the bytes of all frames as base64 text, or a mean as a list of numbers; a
            video-level model takes the frames of a mean, too. None and NaN are a column that a row does not have.
        spec: What the model reads.

    Raises:
        ValueError: names the row and the column.
    """
    video_ids, rows = [], []
    for index, record in enumerate(records):
        given = {name: value for name, value in record.items() if not _is_missing(value)}
        video_ids.append(str(given.get(ID_COLUMN, "")))
        rows.append(_row(given, spec, f"row {index}"))
    return video_ids, rows


def answer_rows(video_ids: Sequence[str], best: TopK, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    """Yields a row a video with ANSWER_COLUMNS: the id, and of the best classes the ids, the names and the scores."""
    class_ids, scores = best.class_ids.tolist(), best.scores.tolist()
    for video_id, ids, values in zip(video_ids, class_ids, scores, strict=True):
        row = (video_id, ids, [vocabulary.name(class_id) for class_id in ids], values)
        yield dict(zip(ANSWER_COLUMNS, row, strict=True))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _row(given: Mapping[str, Any], spec: FeatureSpec, where: str) -> VideoRow:
    context: dict[str, Any] = {ID_KEYS[0]: [_NO_ID]}
    sequences: dict[str, Any] = {}
    for name, size in spec.sizes.items():
        frame_name = name.removeprefix(MEAN_PREFIX)
        if spec.is_video_level and name in given:
            context[name] = _mean(given[name], f"{where}: {name}")
        elif frame_name in given:
            sequences[frame_name] = _frames(given[frame_name], size, spec, f"{where}: {frame_name}")
        else:
            ways = f"{name}, or the frames {frame_name} to average" if spec.is_video_level else f"the frames {name}"
            raise ValueError(f"{where}: this model needs {ways}; found {', '.join(sorted(given)) or 'nothing'}")
    try:
        return to_row(Fields(context, sequences), spec, labelled=False)
    except RecordError as error:
        raise ValueError(f"{where}: {error.reason}") from None


def _frames(text: Any, size: int, spec: FeatureSpec, where: str) -> np.ndarray:
    if not isinstance(text, str):
        raise ValueError(f"{where}: expected base64 text, found {type(text).__name__}")
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: not base64 (standard alphabet, no line breaks): {error}") from None
    if not len(values) or len(values) % size or len(values) > size * spec.max_frames:
        raise ValueError(
            f"{where}: expected 1 to {spec.max_frames} frames of {size} bytes each, found {len(values)} bytes"
        )
    return values.reshape(-1, size)


def _mean(numbers: Any, where: str) -> np.ndarray:
    try:
        given = np.asarray(numbers, np.float64)
    except (ValueError, TypeError):
        given = np.empty(())
    if given.ndim != 1:
        raise ValueError(f"{where}: expected a list of numbers, found {type(numbers).__name__}")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused with the row
        return given.astype(np.float32)
