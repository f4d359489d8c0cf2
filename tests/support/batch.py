"""Rows of videos as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.schema import Batch


def make_batch(rows: Sequence[VideoRow], spec: FeatureSpec, **options: Any) -> Batch:
    """Returns rows as one batch; the options are those of `to_batch`."""
    return to_batch(PackedVideos.from_rows(rows, spec), spec=spec, **options)
