"""How a bundle stores its weights: part of the document of an export and of the bundle itself. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import pydantic

from yt8m_ray.registry import ComponentConfig

PUBLISHED_MIN_ELEMENTS = 17_000
"""Variables with more elements than this were quantized by the 2018 systems; smaller ones are not worth it."""

_READ_BY = {
    "min_elements": ("int8", "int4", "float16", "bfloat16", "uniform", "quantile", "kmeans"),
    "group_size": ("int4",),
    "activations": ("int8", "int4"),
}
"""Transforms that read a key; under others alone it does nothing."""


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

    def check_use(self, names: Iterable[str]) -> None:
        """Checks that what none of the transforms with these names reads has its default.

        A bundle does not ask this: those that an earlier version wrote may say more than is read.

        Raises:
            ValueError: names the key, and the transforms that read it.
        """
        names = set(names)
        for key, readers in _READ_BY.items():
            if names.isdisjoint(readers):
                self.check_unused(key, why=f"{', '.join(sorted(names))} does not use it, only {', '.join(readers)}")
