"""The document of one export: which checkpoints become which bundle, and on what its quality is measured.

Lives here: the config types of `jobs.export`. Does not live here: the work itself (`yt8m_ray.inference`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from yt8m_ray.config.data import Shards
from yt8m_ray.config.train import TrackingConfig
from yt8m_ray.registry import ComponentConfig, Config

PUBLISHED_MIN_ELEMENTS = 17_000
"""Variables with more elements than this were quantized by the 2018 systems; smaller ones are not worth it."""


class MemberConfig(Config):
    """One model of the ensemble.

    Attributes:
        checkpoint: A checkpoint folder, as the last line of `jobs.train` names it.
        weight: Its share of the averaged probabilities, relative to the other members; equal shares by default.
        ema: Whether to take the moving average of its weights; null takes what its run was validated with.
    """

    checkpoint: str
    weight: Annotated[float, pydantic.Field(gt=0)] = 1.0
    ema: bool | None = None


class TransformConfig(ComponentConfig):
    """How weights are stored, and what becomes of them when a bundle is loaded.

    Attributes:
        name: `int8` (a scale a channel, symmetric), `int4` (a scale a group of inputs, symmetric; linear layers, other
            matrices are int8), `float16`, `bfloat16`, the 2018 winner's codes into 256 values a tensor, which are
            evenly spaced (`uniform`), quantiles (`quantile`) or have the least squared error (`kmeans`), or `none`
            (float32 as trained).
        min_elements: Only matrices, with codebooks and 16 bits only tensors, with more elements are transformed.
        group_size: Inputs that share a scale in `int4`.
        activations: With `int8` and `int4`, linear layers round each row of their inputs to 7 bits and multiply
            integers (`int8`), or expand the weights when they are loaded (`float32`). All else is always expanded.
    """

    name: Literal["int8", "int4", "float16", "bfloat16", "uniform", "quantile", "kmeans", "none"] = "int8"
    min_elements: Annotated[int, pydantic.Field(ge=0)] = PUBLISHED_MIN_ELEMENTS
    group_size: Annotated[int, pydantic.Field(ge=2, multiple_of=2)] = 64
    activations: Literal["int8", "float32"] = "int8"


class ExportDataConfig(Config):
    """The shards that GAP is measured on.

    Attributes:
        validation: A glob, or a list of globs; None takes the first member's own `data.validation`.
        batch_size: Videos a batch while measuring; no result depends on it.
    """

    validation: Shards = None
    batch_size: Annotated[int, pydantic.Field(ge=1)] = 256


class ExportConfig(Config):
    """Checkpoints -> one bundle.

    Attributes:
        members: The models, at least one, in the order of the bundle's `members/` folders.
        output: The bundle's folder; it must not exist yet.
        tracking: The MLflow store that gets a run with the bundle; a null uri means the first member's own store.
    """

    members: Annotated[tuple[MemberConfig, ...], pydantic.Field(min_length=1)]
    transform: TransformConfig = TransformConfig()
    data: ExportDataConfig = ExportDataConfig()
    output: str
    tracking: TrackingConfig = TrackingConfig()

    def weights(self) -> list[float]:
        """Returns the members' weights, scaled to the sum 1."""
        total = sum(member.weight for member in self.members)
        return [member.weight / total for member in self.members]
