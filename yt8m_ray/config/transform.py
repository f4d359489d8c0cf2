"""How a bundle stores its weights: part of the document of an export and of the bundle itself. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from yt8m_ray.registry import ComponentConfig

PUBLISHED_MIN_ELEMENTS = 17_000
"""Variables with more elements than this were quantized by the 2018 systems; smaller ones are not worth it."""


class TransformConfig(ComponentConfig):
    """How weights are stored.

    Attributes:
        name: `int8` (per channel, symmetric, weights only), `uniform` (the 2018 winner's: codes into 256 evenly spaced
            values a tensor) or `none` (float32 as trained).
        min_elements: Only matrices, with `uniform` only tensors, with more elements than this are transformed.
    """

    name: Literal["int8", "uniform", "none"] = "int8"
    min_elements: Annotated[int, pydantic.Field(ge=0)] = PUBLISHED_MIN_ELEMENTS
