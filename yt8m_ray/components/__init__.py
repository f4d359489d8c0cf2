"""Settings of models, heads, samplers and losses, by name; without torch, so that a document is checked at once.

Importing this package registers the settings; what a name stands for is imported when it is built.
"""

from __future__ import annotations

from yt8m_ray.components import aggregation as aggregation
from yt8m_ray.components.heads import HEADS, HeadField
from yt8m_ray.components.losses import LOSSES
from yt8m_ray.components.models import MODELS
from yt8m_ray.components.sampling import SAMPLERS, SamplingField

__all__ = ["HEADS", "LOSSES", "MODELS", "SAMPLERS", "HeadField", "SamplingField"]
