"""What a run reads, and how it becomes batches."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import Field, NonNegativeFloat

from yt8m_ray.data.format.features import FeatureSpec, Normalization
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.registry import Config, LocalPath, NonNegativeInt, PositiveInt
from yt8m_ray.schema import MAX_FRAMES, MOST_FRAMES, NUM_CLASSES_2018, VIDEO_FEATURES

# A path, a glob, or a list of them; local, `s3://` or `gs://`.
Shards = LocalPath | list[LocalPath] | None


class DataConfig(Config):
    """What is read, and how it becomes batches."""

    train: Shards = None
    """What is trained on; several globs are taken together."""
    validation: Shards = None
    """What every epoch is measured on; no shard of `train`."""
    test: Shards = None
    """What `yt8m evaluate` measures on."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Splits the shards of `train` into so many folds and holds one out as validation."""
    fold: NonNegativeInt = 0
    """The one held out, from 0."""
    split_seed: NonNegativeInt = 0
    """Chooses which shards are in which fold."""
    bagging: NonNegativeInt | None = None
    """Seed of a bootstrap, for bagged members: as many shards of `train` as there are, drawn with replacement; null
    takes each once."""
    video_weights: LocalPath | None = None
    """What `yt8m boost` wrote: the weight of each video in the loss; null weighs all alike."""
    manifest: LocalPath | None = None
    """A file that `yt8m inspect` wrote. Every shard of `train` and `validation` has to be in it, every shard in it has
    to exist in its size, and each epoch counts records again; null checks none of that."""
    features: dict[str, PositiveInt] = Field(default=dict(VIDEO_FEATURES), min_length=1)
    """Sizes by name, in the order in which they are concatenated; names with `mean_` are video-level, all or none."""
    num_classes: PositiveInt = NUM_CLASSES_2018
    max_frames: Annotated[PositiveInt, Field(le=MOST_FRAMES)] = MAX_FRAMES
    normalize: Normalization = "l2"
    """`l2` divides each frame by its norm over the concatenated features, as most published systems do;
    `reverse_whitened` (NeXtVLAD's authors) and `unwhitened` are described in `yt8m_ray.data.pipeline.normalize`."""
    shuffle_window: NonNegativeInt = 1024
    """Videos that a worker gathers and deals out at random; 0 keeps the order of the shards."""
    vocabulary: LocalPath | None = None
    """CSV of class names; null takes the published one where there are 3,862 classes, or fewer of videos with the
    published features alone; other classes have no names."""
    verify_checksums: bool = True
    """CRC-32C of every record, both fields."""
    on_corrupt: OnCorruptPolicy = "fail"
    """What a bad record does: `fail` stops with its place, `skip` leaves it out and counts it by cause."""
    cache: LocalPath | None = None
    """A folder on every node in which decoded shards are kept for the next epoch; null keeps none."""

    @property
    def spec(self) -> FeatureSpec:
        """What the reader needs to know."""
        return FeatureSpec(dict(self.features), num_classes=self.num_classes, max_frames=self.max_frames)

    @property
    def read_options(self) -> ReadOptions:
        """How labelled shards are read."""
        return ReadOptions(verify_checksums=self.verify_checksums, labels="required", on_corrupt=self.on_corrupt)

    @property
    def feature_sizes(self) -> list[int]:
        """What a model needs to know."""
        return list(self.features.values())

    @pydantic.model_validator(mode="after")
    def _check_folds(self) -> DataConfig:
        if self.folds is None and self.fold:
            raise ValueError(f"fold: {self.fold}, but folds is null")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold: expected 0 to {self.folds - 1}, found {self.fold}")
        if self.folds is not None and self.validation is not None:
            raise ValueError("folds: a fold of data.train is the validation; remove data.validation, or folds")
        return self

    @pydantic.model_validator(mode="after")
    def _check_features(self) -> DataConfig:
        # Its own check: no mixture of video level and frame level.
        _ = self.spec
        return self


class AugmentationConfig(Config):
    """What training changes in its batches at random; evaluation sees every video as it is."""

    mixup_alpha: NonNegativeFloat = 0.0
    """Alpha of mixup (arXiv:1710.09412; the 7th place of 2019 takes 0.4): each video's frames and labels are mixed with
    another's of its batch by a share from Beta(alpha, alpha), at least one half its own; 0 mixes none. Frames are mixed
    at equal times, as long as the longer clip."""
    frame_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Each frame is left out with this probability; at least one stays."""
    min_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Least share of a clip that is taken as one stretch of frames, of a length drawn up to all of it; 1 takes all."""
