"""What a video must hold: the part of bundle.yaml that a client needs. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from yt8m_ray.data.format.features import FeatureSpec, Normalization
from yt8m_ray.registry import Config, PositiveInt
from yt8m_ray.schema import MOST_FRAMES

Level = Literal["frame", "video"]

NUM_FRAMES: dict[Level, str] = {
    "frame": "frames at one a second, as many of each feature, 1 to max_frames; of longer videos in shards, the first",
    "video": "always 1: each feature is the mean over the video's dequantized frames",
}


class InputFeature(Config):
    """One feature of a video: `size` values a frame, as they are sent: the bytes of the shards, or floats of a mean."""

    name: str
    dtype: Literal["uint8", "float32"]
    size: PositiveInt


class InputSchema(Config):
    """What a video must hold; a client needs no other document."""

    # Whether a video is many frames, or one mean over them.
    level: Level
    # In the order in which they are concatenated; not a mapping, which tools sort.
    features: tuple[InputFeature, ...] = Field(min_length=1)
    max_frames: Annotated[PositiveInt, Field(le=MOST_FRAMES)]
    # What becomes of the dequantized frames, by name; the client does none of it.
    normalize: Normalization
    # Sentences for the reader of the document: what these two mean.
    video_id: str = "any text; comes back with the answer and changes nothing of it"
    num_frames: str

    @classmethod
    def of(cls, spec: FeatureSpec, normalize: Normalization) -> InputSchema:
        """Returns the schema of what a model reads."""
        level: Level = "video" if spec.is_video_level else "frame"
        return cls(
            level=level,
            features=tuple(InputFeature(name=name, dtype=spec.dtype, size=size) for name, size in spec.sizes.items()),
            max_frames=spec.max_frames,
            normalize=normalize,
            num_frames=NUM_FRAMES[level],
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Values a frame by feature, in their order."""
        return {feature.name: feature.size for feature in self.features}

    @pydantic.model_validator(mode="after")
    def _check_level(self) -> InputSchema:
        spec = FeatureSpec(self.sizes, num_classes=1, max_frames=self.max_frames)
        if spec.is_video_level != (self.level == "video"):
            raise ValueError(f"level: {self.level}, but the features are {', '.join(self.sizes)}")
        if len(self.sizes) < len(self.features):
            raise ValueError(f"features: two have the same name among {', '.join(self.sizes)}")
        for index, feature in enumerate(self.features):
            if feature.dtype != spec.dtype:
                raise ValueError(f"features.{index}.dtype: expected {spec.dtype}, found {feature.dtype}")
        return self
