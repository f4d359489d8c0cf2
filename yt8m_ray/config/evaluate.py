"""The document of one evaluation: on what a checkpoint or a bundle is measured. How it reads its input is its own."""

from __future__ import annotations

from pydantic import Field

from yt8m_ray.components import LOSSES
from yt8m_ray.config.data import Shards
from yt8m_ray.config.train import LossField
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy
from yt8m_ray.registry import Config, PositiveInt


class EvaluateDataConfig(Config):
    """What is read."""

    test: Shards = None
    """A path, a glob, or a list of them."""
    verify_checksums: bool = True
    """CRC-32C of every record, both fields."""
    on_corrupt: OnCorruptPolicy = "fail"
    """What a bad record does: `fail` stops with its place, `skip` leaves it out and counts it."""


class EvaluateScalingConfig(Config):
    """The processes that evaluate; no result depends on their number."""

    num_workers: PositiveInt = 1


class EvaluateConfig(Config):
    """Which shards are scored, and by which loss besides the metrics."""

    data: EvaluateDataConfig = EvaluateDataConfig()
    loss: LossField = Field(default_factory=lambda: LOSSES.parse({"name": "cross_entropy"}))
    ema: bool | None = None
    """Whether to take the moving average of a checkpoint's weights; null takes what its run was validated with."""
    scaling: EvaluateScalingConfig = EvaluateScalingConfig()
