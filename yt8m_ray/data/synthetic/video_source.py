"""The videos of a synthetic data set: which one is asked for, and where its videos come from."""

from __future__ import annotations

import string
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import Field

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.shard_reader import ReadOptions, read_rows
from yt8m_ray.data.synthetic.planted_labels import (
    NOISE_STD,
    WINDOW_LENGTHS,
    PlantedVideo,
    PlantedWorld,
    class_counts,
    quantize,
)
from yt8m_ray.registry import Config
from yt8m_ray.schema import MAX_FRAMES, NUM_CLASSES_2017, NUM_CLASSES_2018, VIDEO_FEATURES

# Weight of the previous frame's noise around a real mean; neighbours then correlate by 0.28, as in a real clip.
PREVIOUS_FRAME_WEIGHT = 0.3

SPLITS = ("train", "validate", "test")

# Tenths of the real videos that each split is made of: CRC-32 of the id, modulo 10. So no video is in two splits,
# whatever shards they are made from and however many videos they take.
SOURCE_TENTHS = {"validate": (0,), "test": (1,), "train": tuple(range(2, 10))}

_ID_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 4
_NUM_IDS = len(_ID_ALPHABET) ** _ID_LENGTH
# Prime, so that its multiples modulo _NUM_IDS run through all ids without repetition.
_ID_STRIDE = 6_700_417


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
        if self.num_videos * len(SPLITS) > _NUM_IDS:
            raise ValueError(
                f"num_shards * videos_per_shard: at most {_NUM_IDS // len(SPLITS)}, found {self.num_videos}"
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


class PlantedSource:
    """Videos of a planted world."""

    provenance = (
        "Synthetic: labels, features and time are drawn from a planted process; the class frequencies are YouTube-8M's."
    )

    def __init__(self, config: SynthesisConfig) -> None:
        self.config = config
        self.world = PlantedWorld(
            config.num_classes,
            num_modes=config.modes_per_class,
            world=config.world,
            signal=config.signal,
            window_scale=config.window_scale,
        )
        self.class_probabilities = self.world.class_probabilities

    def draw(self, shard: int) -> Iterator[tuple[str, PlantedVideo]]:
        """Yields the ids and videos of a shard."""
        random = self.config.random(shard)
        for position in range(self.config.videos_per_shard):
            if self.config.kind == "video":
                video = self.world.draw_mean(random, self.config.mean_frames)
            else:
                video = self.world.draw_clip(random, self.config.draw_num_frames(random))
            yield self._video_id(shard * self.config.videos_per_shard + position), video

    def score(self, video: PlantedVideo) -> npt.NDArray[np.float32]:
        """Returns the ideal scorer's log odds [C]."""
        if self.config.kind == "video":
            return self.world.score_mean(video.features, self.config.mean_frames)
        return self.world.score_clip(video.features)

    def _video_id(self, number: int) -> str:
        # Four characters as published. Two videos of one seed never share an id, whatever their splits.
        (first,) = np.random.SeedSequence(self.config.seed).generate_state(1)
        code = (int(first) + _ID_STRIDE * (number * len(SPLITS) + SPLITS.index(self.config.split))) % _NUM_IDS
        digits = [code // len(_ID_ALPHABET) ** power % len(_ID_ALPHABET) for power in range(_ID_LENGTH)]
        return "".join(_ID_ALPHABET[digit] for digit in digits)


class AroundMeansSource:
    """Clips around the means of the split's real videos, in the order of their shards; labels and ids stay theirs."""

    def __init__(self, config: SynthesisConfig, source_shards: Sequence[str]) -> None:
        self.config = config
        spec = FeatureSpec(VIDEO_FEATURES, num_classes=config.num_classes)
        rows = (row for path in source_shards for _, row in read_rows(path, spec, ReadOptions(labels="required")))
        tenths = SOURCE_TENTHS[config.split]
        self._rows = (row for row in rows if zlib.crc32(row.video_id.encode()) % 10 in tenths)
        counts = class_counts(config.num_classes)
        self.class_probabilities = counts / counts.sum()
        self.provenance = (
            f"Frames drawn around the video-level features of {config.from_video_level}: labels and means are as real "
            "as those; the frames and their order in time are synthetic. Of the videos, the split has those whose id's "
            f"CRC-32 modulo 10 is in {list(tenths)}; no other split has any of them."
        )

    def draw(self, shard: int) -> Iterator[tuple[str, PlantedVideo]]:
        """Yields the ids and videos of a shard; shards are drawn in their order."""
        config, random = self.config, self.config.random(shard)
        for position in range(config.videos_per_shard):
            row = next(self._rows, None)
            if row is None:
                raise ValueError(
                    f"{config.from_video_level}: {config.num_videos} videos are needed, "
                    f"{shard * config.videos_per_shard + position} found that belong to {config.split}"
                )
            frames = draw_frames_around(row.frames[0], random, config.draw_num_frames(random))
            assert row.labels is not None
            yield row.video_id, PlantedVideo(row.labels.astype(np.int64), frames)


def draw_frames_around(
    mean: npt.NDArray[np.float32], random: np.random.Generator, num_frames: int
) -> npt.NDArray[np.uint8]:
    """Returns quantized frames [T, D] that vary like a real clip's; their mean is `mean` [D] but for rounding."""
    # A moving average of two frames of noise, scaled back to the spread of one.
    noise = random.standard_normal((num_frames + 1, len(mean)), dtype=np.float32)
    noise = noise[1:] + np.float32(PREVIOUS_FRAME_WEIGHT) * noise[:-1]
    noise *= np.float32(NOISE_STD / np.hypot(1, PREVIOUS_FRAME_WEIGHT))
    return quantize(mean + noise - noise.mean(axis=0))
