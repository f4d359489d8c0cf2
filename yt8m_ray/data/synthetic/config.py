"""Which synthetic data set is asked for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic
from pydantic import Field

from yt8m_ray.data.synthetic.planted_labels import WINDOW_LENGTHS
from yt8m_ray.registry import Config
from yt8m_ray.schema import MAX_FRAMES, NUM_CLASSES_2017, NUM_CLASSES_2018

SPLITS = ("train", "validate", "test")

# Ids of four letters or digits.
NUM_IDS = 62**4


class SynthesisConfig(Config):
    """A synthetic data set.

    Data sets of one `world` and `modes_per_class` can serve as each other's validation: what the classes look like
    depends on nothing else. Different seeds, and different splits of one seed, hold different videos.
    """

    kind: Literal["frame", "video"] = Field(default="frame", description="frame: SequenceExamples; video: Examples")
    num_shards: int = Field(default=4, ge=1, le=9999, description="files")
    videos_per_shard: int = Field(default=256, ge=1, description="records a file")
    num_classes: int = Field(
        default=NUM_CLASSES_2018, ge=2, le=NUM_CLASSES_2017, description="classes, as frequent as those of YouTube-8M"
    )
    seed: int = Field(default=0, ge=0, description="of the videos")
    world: int = Field(default=0, ge=0, description="of what the classes look like")
    modes_per_class: int = Field(
        default=1, ge=1, description="ways a class can look: several make more clusters and mixtures pay"
    )
    signal: float = Field(
        default=16.0, gt=0, description="length of a prototype in a marked frame, in noise standard deviations"
    )
    from_video_level: str | None = Field(
        default=None, description="glob of video-level shards: real labels and means, synthetic frames around them"
    )
    split: Literal["train", "validate", "test"] = Field(
        default="train", description="train, validate or test: different videos, and the first part of the file names"
    )
    window_scale: int = Field(
        default=1, ge=1, description="times 3 to 6 seconds that a label marks: with 10, every 30th frame shows them all"
    )
    min_frames: int = Field(default=40, ge=max(WINDOW_LENGTHS), description="shortest clip, in seconds")
    max_frames: int = Field(default=80, le=MAX_FRAMES, description="longest clip, in seconds")

    @pydantic.model_validator(mode="after")
    def _check(self) -> SynthesisConfig:
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is more than max_frames {self.max_frames}")
        longest_window = max(WINDOW_LENGTHS) * self.window_scale
        if self.min_frames < longest_window and self.from_video_level is None:
            raise ValueError(
                f"min_frames: with window_scale {self.window_scale} a label marks up to {longest_window} frames, found "
                f"{self.min_frames}"
            )
        if self.window_scale != 1 and self.from_video_level is not None:
            raise ValueError("window_scale: in clips around real means no label marks a window")
        if self.from_video_level is not None and self.kind != "frame":
            raise ValueError(f"from_video_level makes frames: expected kind frame, found {self.kind}")
        if self.num_videos * len(SPLITS) > NUM_IDS:
            raise ValueError(
                f"num_shards * videos_per_shard: at most {NUM_IDS // len(SPLITS)}, found {self.num_videos}"
            )
        return self

    @property
    def num_videos(self) -> int:
        """Videos of all shards together."""
        return self.num_shards * self.videos_per_shard

    @property
    def mean_frames(self) -> int:
        """Frames of each clip whose mean a video-level data set holds."""
        return (self.min_frames + self.max_frames) // 2

    def random(self, shard: int) -> np.random.Generator:
        """Returns the random numbers of a shard: its videos depend on no other shard, nor on their number."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), shard])

    def draw_num_frames(self, random: np.random.Generator) -> int:
        """Returns the length of a clip."""
        return int(random.integers(self.min_frames, self.max_frames + 1))
