"""How a bundle stores its weights: part of the document of an export and of the bundle itself. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import pydantic

from yt8m_ray.registry import ComponentConfig

# The 2018 systems quantized variables with more elements than this; smaller ones are not worth it.
PUBLISHED_MIN_ELEMENTS = 17_000

# Transforms that read a key; under others alone it does nothing.
_READ_BY = {
    "min_elements": ("int8", "int4", "float16", "bfloat16", "uniform", "quantile", "kmeans"),
    "group_size": ("int4",),
    "activations": ("int8", "int4"),
    "of": ("smallest",),
    "max_gap_loss": ("smallest",),
}

TransformName = Literal["int8", "int4", "float16", "bfloat16", "uniform", "quantile", "kmeans", "none"]


class TransformConfig(ComponentConfig):
    """How weights are stored, and what becomes of them when a bundle is loaded."""

    name: TransformName | Literal["smallest"] = "int8"
    """`int8` (a scale a channel, symmetric), `int4` (a scale a group of inputs, symmetric; linear layers, other
    matrices are int8), `float16`, `bfloat16`, the 2018 winner's codes into 256 values a tensor, which are evenly spaced
    (`uniform`), quantiles (`quantile`) or have the least squared error (`kmeans`), or `none` (float32 as trained).
    `smallest`: each member its own, the one of `of` with the fewest bytes that loses at most `max_gap_loss`, and `none`
    where all lose more."""
    min_elements: Annotated[int, pydantic.Field(ge=0)] = PUBLISHED_MIN_ELEMENTS
    """Only matrices, with codebooks and 16 bits only tensors, with more elements are transformed."""
    group_size: Annotated[int, pydantic.Field(ge=2, multiple_of=2)] = 64
    """Inputs that share a scale in `int4`."""
    activations: Literal["int8", "float32"] = "int8"
    """With `int8` and `int4`, linear layers round each row of their inputs to 7 bits and multiply integers (`int8`), or
    expand the weights when they are loaded (`float32`). All else is always expanded."""
    of: Annotated[tuple[TransformName, ...], pydantic.Field(min_length=1)] = ("int4", "int8", "float16")
    """What `smallest` tries."""
    max_gap_loss: pydantic.NonNegativeFloat = 0.0005
    """What a member's GAP alone may fall by in `smallest`, on `weighting.shards` of the export."""

    def check_use(self, names: Iterable[str]) -> None:
        """Checks that what none of the transforms with these names reads has its default; ValueError names the key."""
        # No validator, since a bundle does not ask this: an earlier version may have written more than is read.
        names = set(names)
        for key, readers in _READ_BY.items():
            if names.isdisjoint(readers):
                why = f"{', '.join(sorted(names))} does not use it, only {', '.join(readers)}"
                self.check_unused(key, why=why, section="transform.")
