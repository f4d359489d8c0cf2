"""Metrics: exact, mergeable, in NumPy. Importing this package registers every one."""

from __future__ import annotations

from yt8m_ray.metrics import gap as gap
from yt8m_ray.metrics import video_means as video_means
from yt8m_ray.metrics.base import METRICS, Metric, build_metric, update_all

__all__ = ["METRICS", "Metric", "build_metric", "update_all"]
