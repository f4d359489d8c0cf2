"""What a step learns from besides labels: soft labels, and the scores or representations of teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.config.data import AugmentationConfig
from yt8m_ray.config.distillation import TeacherConfig
from yt8m_ray.config.optimizer import EMAConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import FeatureSpec, Normalization
from yt8m_ray.data.labels.soft_labels import SoftLabels
from yt8m_ray.data.labels.video_weights import VideoWeights
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.errors import ConfigError, config_errors
from yt8m_ray.inference.locate import locate_model
from yt8m_ray.inference.predictor import Predictor, read_spec
from yt8m_ray.models import Model, build_model
from yt8m_ray.schema import Batch
from yt8m_ray.training.steps.augmentation import augment
from yt8m_ray.training.steps.objective import TeacherTargets

TEACHER_FOLDER = "teacher"
"""The folder in a checkpoint of the teacher that was trained beside its model."""


@dataclass(frozen=True)
class FrozenTeacher:
    """A trained model in eval mode that stays as it is, and how its frames are normalized."""

    model: Model
    normalize: Normalization

    @torch.no_grad()
    def scores(self, batch: Batch) -> torch.Tensor:
        """Returns its scores [B, C] in 0..1."""
        return torch.sigmoid(self.model(batch.frames, batch.num_frames).float())

    @torch.no_grad()
    def outputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns its representation [B, R] and logits [B, C]."""
        representation = self.model.represent(batch.frames, batch.num_frames)
        return representation, self.model.head(representation).float()


@dataclass(frozen=True)
class TeacherOutputs:
    """What goes with a run's videos besides their labels."""

    soft_labels: SoftLabels | None = None  # distillation.labels
    video_weights: VideoWeights | None = None  # data.video_weights
    soft_teacher: FrozenTeacher | None = None  # distillation.teacher
    frozen_teacher: FrozenTeacher | None = None  # teacher.checkpoint

    @classmethod
    def load(cls, config: TrainConfig, shards: Sequence[str], device: torch.device) -> TeacherOutputs:
        """Returns what `config` names; `shards` are those of `train`, teachers go to `device`.

        ConfigError where something of it does not fit the student, ValueError or OSError where a teacher is damaged.
        """
        soft_labels, video_weights = _load_labels(config, shards)
        return cls(
            soft_labels=soft_labels,
            video_weights=video_weights,
            soft_teacher=_load_teacher("distillation.teacher", config.distillation.teacher, config, device),
            frozen_teacher=_load_teacher("teacher.checkpoint", config.teacher.checkpoint, config, device),
        )

    def prepare(
        self, videos: PackedVideos, config: TrainConfig, device: torch.device, *, total: int
    ) -> tuple[Batch, TeacherTargets]:
        """Returns an augmented batch and what there is to learn from besides labels; `total` is its `num_videos`."""
        spec, transfer = config.data.spec, config.train.transfer

        def batch_in(normalize: Normalization) -> Batch:
            return to_batch(videos, spec=spec, normalize=normalize, device=device, transfer=transfer)

        batch = batch_in(config.data.normalize)
        if self.soft_labels is not None:
            batch = dataclasses.replace(batch, soft_labels=self.soft_labels.lookup(videos, device))
        if self.video_weights is not None:
            weights = torch.from_numpy(self.video_weights.lookup(list(videos.video_ids))).to(device)
            batch = dataclasses.replace(batch, weights=weights)
        # With its labels and weights, which MixUp mixes too.
        batch = augment(batch, config.augmentation)

        def seen_by(teacher: FrozenTeacher) -> Batch:
            # `_load_teacher` refuses augmentation with another normalization: each would draw its own.
            return batch if teacher.normalize == config.data.normalize else batch_in(teacher.normalize)

        soft_labels, representation, logits = batch.soft_labels, None, None
        if self.soft_teacher is not None:
            soft_labels = self.soft_teacher.scores(seen_by(self.soft_teacher))
        if self.frozen_teacher is not None:
            representation, logits = self.frozen_teacher.outputs(seen_by(self.frozen_teacher))
        return batch, TeacherTargets(soft_labels, batch.weights, representation, logits, total)


def _load_teacher(key: str, path: str | None, config: TrainConfig, device: torch.device) -> FrozenTeacher | None:
    if path is None:
        return None
    predictor = Predictor.from_path(path, device=str(device))
    _check_input(key, config, predictor.spec)
    if predictor.normalize != config.data.normalize and config.augmentation != AugmentationConfig():
        raise ConfigError(
            f"augmentation: a teacher sees the same frames as its student, but {key} normalizes them by "
            f"{predictor.normalize}, data.normalize is {config.data.normalize}"
        )
    return FrozenTeacher(predictor.model.requires_grad_(False), predictor.normalize)


def build_teacher(config: TrainConfig) -> Model | None:
    """Returns a new model of `teacher.model`, to be trained beside the student; None without one."""
    if config.teacher.model is None:
        return None
    return build_model(
        config.teacher.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes
    )


def save_teacher(folder: Path, *, config: TrainConfig, model: Model) -> None:
    """Writes the model that was trained beside a student as a checkpoint of its own."""
    folder.mkdir()
    # It has no average: `ema` is of the student.
    changes = {"model": config.teacher.model, "teacher": TeacherConfig(), "ema": EMAConfig()}
    save_checkpoint(folder, config=config.model_copy(update=changes), model=model, state={}, facts={})


def check_paths(config: TrainConfig, shards: Sequence[str], *, is_new: bool = True) -> None:
    """Checks, before anything starts, that what a run names of other runs is there and goes with its model and shards.

    ConfigError where something is not there or does not fit, CheckpointError where a teacher is damaged.
    """
    _load_labels(config, shards)
    # A continued run has weights of its own.
    if is_new and config.train.init_from is not None:
        load_config(locate_model(config.train.init_from))
    if config.distillation.teacher is not None:
        _check_input("distillation.teacher", config, read_spec(locate_model(config.distillation.teacher)))
    if config.teacher.checkpoint is not None:
        folder = locate_model(config.teacher.checkpoint)
        # A bundle has none, and its model no representation to imitate.
        load_config(folder)
        _check_input("teacher.checkpoint", config, read_spec(folder))


def _load_labels(config: TrainConfig, shards: Sequence[str]) -> tuple[SoftLabels | None, VideoWeights | None]:
    labels, weights = config.distillation.labels, config.data.video_weights
    with config_errors("distillation.labels"):
        soft_labels = None if labels is None else SoftLabels(labels, shards, config.data.num_classes)
    with config_errors("data.video_weights"):
        return soft_labels, None if weights is None else VideoWeights.load(weights)


def _check_input(key: str, config: TrainConfig, spec: FeatureSpec) -> None:
    data = config.data
    # In the same order, too: features are concatenated in it.
    if list(spec.sizes.items()) != list(data.features.items()):
        raise ConfigError(f"{key}: reads {dict(spec.sizes)}, data.features are {dict(data.features)}")
    if spec.num_classes != data.num_classes:
        raise ConfigError(f"{key}: knows {spec.num_classes} classes, data.num_classes is {data.num_classes}")
