"""The document of one evaluation: on what a checkpoint or a bundle is measured."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import Field

from yt8m_ray.config.train import DataConfig, ScalingConfig
from yt8m_ray.losses import LOSSES
from yt8m_ray.registry import ComponentConfig, Config


class EvaluateConfig(Config):
    """How shards are read and scored; `data.test` names them."""

    data: DataConfig
    loss: Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(LOSSES.parse)] = Field(
        default_factory=lambda: LOSSES.parse({"name": "cross_entropy"})
    )
    scaling: ScalingConfig = ScalingConfig()
