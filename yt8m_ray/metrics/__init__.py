"""Metrics: exact, mergeable, in NumPy. Importing this package registers every one."""

from __future__ import annotations

from yt8m_ray.metrics import gap as gap
from yt8m_ray.metrics import hit_at_1 as hit_at_1
from yt8m_ray.metrics import mean_ap as mean_ap
from yt8m_ray.metrics import perr as perr
from yt8m_ray.metrics.base import METRICS, Metric, build_metric, update_all

__all__ = ["METRICS", "Metric", "build_metric", "update_all"]
