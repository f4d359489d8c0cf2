"""The document of one training run. The saved file holds every default and lies beside the weights."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from yt8m_ray.data.features import FeatureSpec
from yt8m_ray.data.normalize import Normalization
from yt8m_ray.data.reader import OnCorruptPolicy, ReadOptions
from yt8m_ray.losses import LOSSES
from yt8m_ray.models import MODELS, build_model
from yt8m_ray.registry import ComponentConfig, Config
from yt8m_ray.schema import MAX_FRAMES, NUM_CLASSES_2018, VIDEO_FEATURES

Shards = str | list[str] | None
"""A path, a glob, or a list of them; local, `s3://` or `gs://`."""


class RunConfig(Config):
    """Which run this is: its folder is `output/name`.

    Attributes:
        trace_videos: Each worker writes the ids of the videos of each of its steps to `videos-RANK.jsonl` there.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: NonNegativeInt = 0
    resume: Literal["auto", "never", "must"] = "auto"
    trace_videos: bool = False


class DataConfig(Config):
    """What is read, and how it becomes batches.

    Attributes:
        train: What is trained on; several globs are taken together.
        validation: What every epoch is measured on; no shard of `train`.
        test: What `jobs.evaluate` measures on.
        folds: Splits the shards of `train` into so many folds and holds one out as validation.
        fold: The one held out, from 0.
        split_seed: Chooses which shards are in which fold.
        features: Sizes by name, in the order in which they are concatenated; names that begin with `mean_` are
            video-level. Either all are, or none.
        normalize: `l2` divides each frame by its norm over the concatenated features, as the published systems do;
            `reverse_whitened` is what NeXtVLAD's authors do; it and `unwhitened` are described in
            `yt8m_ray.data.normalize`.
        manifest: A file that `jobs.inspect` wrote. Every shard of `train` and `validation` has to be in it, every shard
            in it has to exist in its size, and each epoch counts records again; null checks none of that.
        shuffle_window: Videos that a worker gathers and deals out at random; 0 keeps the order of the shards.
        vocabulary: CSV of class names; null takes the published one where the number of classes allows.
        verify_checksums: CRC-32C of every record, both fields.
        on_corrupt: What a bad record does: `fail` stops with its place, `skip` leaves it out and counts it by cause.
        cache: A folder on every node in which decoded shards are kept for the next epoch; null keeps none.
    """

    train: Shards = None
    validation: Shards = None
    test: Shards = None
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: NonNegativeInt = 0
    split_seed: NonNegativeInt = 0
    manifest: str | None = None
    features: dict[str, PositiveInt] = Field(default=dict(VIDEO_FEATURES), min_length=1)
    num_classes: PositiveInt = NUM_CLASSES_2018
    max_frames: PositiveInt = MAX_FRAMES
    normalize: Normalization = "l2"
    shuffle_window: NonNegativeInt = 1024
    vocabulary: str | None = None
    verify_checksums: bool = True
    on_corrupt: OnCorruptPolicy = "fail"
    cache: str | None = None

    @property
    def spec(self) -> FeatureSpec:
        """What the reader needs to know."""
        return FeatureSpec(dict(self.features), num_classes=self.num_classes, max_frames=self.max_frames)

    @property
    def read_options(self) -> ReadOptions:
        """How shards are read."""
        return ReadOptions(verify_checksums=self.verify_checksums, on_corrupt=self.on_corrupt)

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
        _ = self.spec  # its own check: no mixture of video level and frame level
        return self


class OptimizerConfig(Config):
    """Adam with a learning rate that falls in a staircase by examples seen (published: 0.95 every 4,000,000).

    Attributes:
        epsilon: Added to the root of the second moment.
        epsilon_hat: Whether to add it before the moment's bias is corrected, as TensorFlow's Adam and therefore the
            published systems do; otherwise after, as torch does. Only gradients near epsilon tell the difference.
        clip_gradient_norm: Bound of each variable's own gradient norm; 0 switches clipping off.
    """

    name: Literal["adam"] = "adam"
    learning_rate: PositiveFloat = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: PositiveFloat = 1e-8
    epsilon_hat: bool = False
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.95
    decay_examples: PositiveInt = 4_000_000
    clip_gradient_norm: NonNegativeFloat = 1.0


class LoopConfig(Config):
    """How long to train, and on what batches.

    Attributes:
        batch_size: Videos a step over all workers together.
        max_steps: Ends the run early; null trains all epochs.
        precision: `bfloat16` runs the model under autocast; weights and loss stay float32.
        regularization_penalty: Weight of the model's own L2 terms.
        sync_batch_norm: Statistics over the global batch, so that results do not depend on the number of workers.
        warm_up_batch_norm: Moving statistics follow fast in the first steps, so that short runs can be evaluated; false
            is the published share from the start.
        log_every_steps: Interval of the progress line and of the curves in MLflow.
    """

    batch_size: PositiveInt = 1024
    num_epochs: PositiveInt = 5
    max_steps: PositiveInt | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    regularization_penalty: NonNegativeFloat = 1.0
    sync_batch_norm: bool = True
    warm_up_batch_norm: bool = True
    log_every_steps: PositiveInt = 10

    def is_reached(self, *, epoch: int, step: int) -> bool:
        """Returns whether a run with so many whole epochs and steps behind it is at its end."""
        return epoch >= self.num_epochs or (self.max_steps is not None and step >= self.max_steps)


class CheckpointConfig(Config):
    """When checkpoints are written; one is written after every epoch in any case.

    Attributes:
        every_steps: Also every so many steps inside an epoch.
        num_to_keep: Best checkpoints by validation GAP to keep; the last one is kept too.
    """

    every_steps: PositiveInt | None = None
    num_to_keep: PositiveInt = 1


class ScalingConfig(Config):
    """The workers of the run.

    Attributes:
        use_gpu: One GPU a worker; null takes GPUs where the cluster has one for every worker.
        cpus_per_worker: Logical CPUs and torch threads of a worker; null takes one, or less where the cluster is small.
        max_failures: Restarts after a lost worker before the run fails.
    """

    num_workers: PositiveInt = 1
    use_gpu: bool | None = None
    cpus_per_worker: PositiveFloat | None = None
    max_failures: NonNegativeInt = 3


class TrackingConfig(Config):
    """Where MLflow keeps the run; a null uri means an SQLite file under the output folder."""

    uri: str | None = None
    experiment: str = "yt8m_ray"


class TrainConfig(Config):
    """One training run, complete: `fit` needs nothing else."""

    output: str = "runs"
    run: RunConfig
    data: DataConfig = DataConfig()
    model: Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(MODELS.parse)]
    loss: Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(LOSSES.parse)] = Field(
        default_factory=lambda: LOSSES.parse({"name": "cross_entropy"})
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    train: LoopConfig = LoopConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    scaling: ScalingConfig = ScalingConfig()
    tracking: TrackingConfig = TrackingConfig()

    @pydantic.model_validator(mode="after")
    def _check_model(self) -> TrainConfig:
        try:
            with torch.device("meta"):  # no storage and no initial weights: some milliseconds
                build_model(self.model, feature_sizes=self.data.feature_sizes, num_classes=self.data.num_classes)
        except ValueError as error:
            raise ValueError(f"model: {error}") from None
        except RuntimeError:
            pass  # a model from outside this package that cannot be built without storage: the worker builds it
        return self
