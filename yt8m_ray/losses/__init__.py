"""Losses: logits and labels [B, C] to a scalar, summed over classes and averaged over clips.

Lives here: the losses, their configs, the weights of classes, and the registry `LOSSES`. Does not live here: the l2
term (a model's `regularization`), distillation, and the weights of videos.
"""

from __future__ import annotations

from yt8m_ray.losses import cross_entropy as cross_entropy
from yt8m_ray.losses import published as published
from yt8m_ray.losses import sampled as sampled
from yt8m_ray.losses.base import LOSSES, Loss, build_loss

__all__ = ["LOSSES", "Loss", "build_loss"]
