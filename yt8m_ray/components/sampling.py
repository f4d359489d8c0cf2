"""Settings of the ways to choose frames of a clip. A name is built by `yt8m_ray.models.sampling`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from yt8m_ray.registry import ComponentConfig, Registry
from yt8m_ray.schema import MAX_FRAMES

SAMPLERS: Registry[Any] = Registry("sampling", implementation="yt8m_ray.models")

# The type of a config field that holds any registered sampling.
SamplingField = Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(SAMPLERS.parse)]


@SAMPLERS.config
class AllFramesConfig(ComponentConfig):
    """`all` has no options."""

    name: Literal["all"] = "all"


@SAMPLERS.config
class RandomFramesConfig(ComponentConfig):
    """`num_frames` frames, drawn independently with replacement."""

    name: Literal["random"] = "random"
    num_frames: int = pydantic.Field(default=30, ge=1, le=10_000)


@SAMPLERS.config
class FrameSequenceConfig(ComponentConfig):
    """`num_frames` consecutive frames."""

    name: Literal["sequence"] = "sequence"
    num_frames: int = pydantic.Field(default=30, ge=1, le=10_000)


@SAMPLERS.config
class UniformFramesConfig(ComponentConfig):
    """The first frame and every `every`-th one after it."""

    name: Literal["uniform"] = "uniform"
    every: int = pydantic.Field(default=2, ge=1)


@SAMPLERS.config
class SampleAllConfig(ComponentConfig):
    """Every frame once, in order; in training, random frames fill what is left of `num_frames`."""

    name: Literal["sample_all"] = "sample_all"
    num_frames: int = pydantic.Field(default=MAX_FRAMES, ge=1, le=10_000)


@SAMPLERS.config
class TrimmedFramesConfig(ComponentConfig):
    """At most `num_frames` frames of a clip without its first `start` and last `end`."""

    name: Literal["trimmed"] = "trimmed"
    start: int = pydantic.Field(default=30, ge=0)
    end: int = pydantic.Field(default=10, ge=0)
    num_frames: int = pydantic.Field(default=140, ge=1, le=10_000)
