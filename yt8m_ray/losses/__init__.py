"""Losses: logits and labels [B, C] to a scalar, summed over classes and averaged over clips."""

from __future__ import annotations

from yt8m_ray.components import LOSSES
from yt8m_ray.losses import cross_entropy as cross_entropy
from yt8m_ray.losses import published as published
from yt8m_ray.losses.base import Loss, build_loss

__all__ = ["LOSSES", "Loss", "build_loss"]
