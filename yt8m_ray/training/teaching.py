"""Frozen teachers: whose scores, or representations, a step learns from besides labels.

Lives here: loading them, and what of them goes with a batch. Does not live here: what is done with it
(`yt8m_ray.training.objective`), the making of soft-label data sets (`jobs.distill`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from yt8m_ray.checkpoint import load_model, save_checkpoint
from yt8m_ray.config.document import ConfigError
from yt8m_ray.config.optimizer import EMAConfig
from yt8m_ray.config.teaching import TeacherConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import to_batch
from yt8m_ray.data.features import FeatureSpec
from yt8m_ray.data.normalize import Normalization
from yt8m_ray.data.packed import PackedVideos
from yt8m_ray.inference.predictor import Predictor, locate_model
from yt8m_ray.models import Model, build_model
from yt8m_ray.schema import Batch
from yt8m_ray.training.augmentation import augment
from yt8m_ray.training.objective import Lesson

TEACHER_FOLDER = "teacher"
"""Where in a checkpoint the model lies that was trained beside it."""


@dataclass(frozen=True)
class FrozenTeacher:
    """A trained model that stays as it is.

    Attributes:
        model: In eval mode, on the device.
        normalize: What it expects of its frames.
    """

    model: Model
    normalize: Normalization

    def scores(self, batch: Batch) -> torch.Tensor:
        """Returns its scores [B, C] in 0..1."""
        with torch.no_grad():
            return torch.sigmoid(self.model(batch.frames, batch.num_frames).float())

    def outputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns its representation [B, R] and logits [B, C]."""
        with torch.no_grad():
            representation = self.model.represent(batch.frames, batch.num_frames)
            return representation, self.model.head(representation).float()


@dataclass(frozen=True)
class Supplies:
    """What goes with a run's videos besides their labels.

    Attributes:
        soft_teacher: `distillation.teacher`.
        frozen_teacher: `teacher.checkpoint`.
    """

    soft_teacher: FrozenTeacher | None = None
    frozen_teacher: FrozenTeacher | None = None

    @classmethod
    def load(cls, config: TrainConfig, shards: Sequence[str], device: torch.device) -> Supplies:  # noqa: ARG003
        """Returns what `config` names.

        Args:
            config: The run.
            shards: Of `train`.
            device: Where teachers run.

        Raises:
            ConfigError: a teacher reads other features or knows other classes than the student.
            ValueError, OSError: a file is damaged or not there.
        """
        return cls(
            soft_teacher=load_soft_teacher(config, device),
            frozen_teacher=load_frozen_teacher(config, device),
        )

    def prepare(
        self, videos: PackedVideos, config: TrainConfig, spec: FeatureSpec, device: torch.device, *, total: int
    ) -> tuple[Batch, Lesson]:
        """Returns videos as an augmented batch, and what there is to learn from besides its labels.

        Args:
            videos: Of this step, on this worker.
            config: The run.
            spec: The features.
            device: Where to.
            total: Videos of the step over all workers.
        """

        def batch_in(normalize: Normalization) -> Batch:
            return to_batch(videos, spec=spec, normalize=normalize, device=device, transfer=config.train.transfer)

        batch = augment(batch_in(config.data.normalize), config.augmentation)

        def seen_by(teacher: FrozenTeacher) -> Batch:
            return batch if teacher.normalize == config.data.normalize else batch_in(teacher.normalize)

        soft_labels, representation, logits = batch.soft_labels, None, None
        if self.soft_teacher is not None:
            soft_labels = self.soft_teacher.scores(seen_by(self.soft_teacher))
        if self.frozen_teacher is not None:
            representation, logits = self.frozen_teacher.outputs(seen_by(self.frozen_teacher))
        return batch, Lesson(soft_labels, batch.weights, representation, logits, total)


def load_soft_teacher(config: TrainConfig, device: torch.device) -> FrozenTeacher | None:
    """Returns the teacher of `distillation.teacher`, None without one.

    Raises:
        ConfigError: it reads other features or knows other classes than the student.
        CheckpointError: it cannot be read.
    """
    path = config.distillation.teacher
    if path is None:
        return None
    predictor = Predictor.from_path(locate_model(path), device=str(device))
    spec = predictor.spec
    _check_input("distillation.teacher", config, dict(spec.sizes), spec.num_classes, predictor.normalize)
    return FrozenTeacher(predictor.model, predictor.normalize)


def load_frozen_teacher(config: TrainConfig, device: torch.device) -> FrozenTeacher | None:
    """Returns the teacher of `teacher.checkpoint`, None without one; raises as `load_soft_teacher` does."""
    path = config.teacher.checkpoint
    if path is None:
        return None
    model, of_teacher = load_model(locate_model(path))
    data = of_teacher.data
    _check_input("teacher.checkpoint", config, dict(data.features), data.num_classes, data.normalize)
    return FrozenTeacher(model.to(device).requires_grad_(False), data.normalize)


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
    changes = {"model": config.teacher.model, "teacher": TeacherConfig(), "ema": EMAConfig()}
    of_teacher = config.model_copy(update=changes)
    save_checkpoint(folder, config=of_teacher, model=model, state={}, facts={})


def check_imitation(config: TrainConfig, student: Model, teacher: Model | None, supplies: Supplies) -> None:
    """Checks that the run's student can imitate its teacher, if it has one; raises as `check_pair` does."""
    if teacher is None and supplies.frozen_teacher is not None:
        teacher = supplies.frozen_teacher.model
    if teacher is not None:
        check_pair(config, student, teacher)


def check_pair(config: TrainConfig, student: Model, teacher: Model) -> None:
    """Checks that a student can imitate a teacher, on a batch of no clips.

    Raises:
        ConfigError: one of them has a loss of its own, or their representations differ in size.
    """
    for key, model in (("model", student), ("teacher", teacher)):
        if type(model).loss is not Model.loss:
            raise ConfigError(f"{key}: a model with a loss of its own neither teaches nor learns by imitation")
    if config.teacher.representation_weight:
        sizes = [_representation_dim(model) for model in (student, teacher)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"teacher.representation_weight: the student's representation has {sizes[0]} values, the teacher's "
                f"{sizes[1]}; make them equal, or set it to 0"
            )


def _representation_dim(model: Model) -> int:
    parameter = next(model.parameters())
    frames = torch.zeros(0, 1, model.frame_dim, device=parameter.device)
    was_training = model.training
    with torch.no_grad():
        size = model.eval().represent(frames, torch.zeros(0, dtype=torch.int64, device=parameter.device)).shape[1]
    model.train(was_training)
    return size


def _check_input(
    key: str, config: TrainConfig, features: dict[str, int], num_classes: int, normalize: Normalization
) -> None:
    data = config.data
    if list(features.items()) != list(data.features.items()):
        raise ConfigError(f"{key}: reads {features}, data.features are {dict(data.features)}")
    if num_classes != data.num_classes:
        raise ConfigError(f"{key}: knows {num_classes} classes, data.num_classes is {data.num_classes}")
    if normalize != data.normalize and config.augmentation != type(config.augmentation)():
        raise ConfigError(
            f"augmentation: a teacher sees the same frames as its student, but {key} normalizes them by {normalize}, "
            f"data.normalize is {data.normalize}"
        )
