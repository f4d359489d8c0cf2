"""The paths in a config, made absolute."""

from __future__ import annotations

from typing import TypeVar

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.registry import ABSOLUTE

C = TypeVar("C", bound=TrainConfig)


def with_absolute_paths(config: C) -> C:
    """Returns the config with its local paths absolute: workers and later jobs run in other folders than this one."""
    return type(config).model_validate(config.model_dump(mode="json"), context=ABSOLUTE)
