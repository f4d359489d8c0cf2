"""The videos of a synthetic data set: which one is asked for, and where its videos come from."""

from __future__ import annotations

import string
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.synthetic.config import NUM_IDS, SPLITS, SynthesisConfig
from yt8m_ray.data.synthetic.planted_labels import (
    NOISE_STD,
    PlantedVideo,
    PlantedWorld,
    class_counts,
    quantize,
)
from yt8m_ray.schema import VIDEO_FEATURES

# Weight of the previous frame's noise around a real mean; neighbours then correlate by 0.28, as in a real clip.
PREVIOUS_FRAME_WEIGHT = 0.3


# Tenths of the real videos that each split is made of: CRC-32 of the id, modulo 10. So no video is in two splits,
# whatever shards they are made from and however many videos they take.
SOURCE_TENTHS = {"validate": (0,), "test": (1,), "train": tuple(range(2, 10))}

_ID_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 4
# Prime, so that its multiples modulo NUM_IDS run through all ids without repetition.
_ID_STRIDE = 6_700_417


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
        code = (int(first) + _ID_STRIDE * (number * len(SPLITS) + SPLITS.index(self.config.split))) % NUM_IDS
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
