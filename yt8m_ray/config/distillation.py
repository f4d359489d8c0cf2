"""What a model learns from besides labels: another model's predictions, or another model beside it."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat

from yt8m_ray.components import MODELS
from yt8m_ray.registry import ComponentConfig, Config, LocalPath

OptionalModel = Annotated[
    pydantic.SerializeAsAny[ComponentConfig] | None,
    pydantic.BeforeValidator(lambda value, info: None if value is None else MODELS.validate(value, info)),
]


class DistillationConfig(Config):
    """A teacher's predictions beside the labels: weight * CE(teacher) + (1 - weight) * loss(labels)."""

    labels: LocalPath | None = None
    """The folder that `yt8m distill` wrote."""
    teacher: LocalPath | None = None
    """A checkpoint or a bundle that runs beside the student; either this or `labels`, or none."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the teacher (published: lambda 0.5)."""
    temperature: PositiveFloat = 1.0
    """Divides the logits of both in the teacher's term; its square multiplies the term, so that gradients keep their
    size."""

    @property
    def is_on(self) -> bool:
        """Whether there is a teacher."""
        return self.labels is not None or self.teacher is not None

    @pydantic.model_validator(mode="after")
    def _check_one(self) -> DistillationConfig:
        if self.labels is not None and self.teacher is not None:
            raise ValueError("teacher: labels have a teacher already; remove one")
        return self


class TeacherConfig(Config):
    """A teacher that sees all frames, for a student (the run's `model`) that samples some (arXiv:1902.10640).

    student loss = representation_weight * mean |s_T - s_S|^2 + prediction_weight * mean KL(p_T || p_S)
                   + label_weight * loss(labels)

    with s what each head classifies and p its scores divided by their sum.
    """

    model: OptionalModel = None
    """Trained beside the student, on labels alone (parallel); its checkpoint is `CHECKPOINT/teacher`."""
    checkpoint: LocalPath | None = None
    """A trained one, which stays as it is (serial); either this or `model`, or none."""
    representation_weight: NonNegativeFloat = 1.0
    """Both representations have to be of one size where it is not 0."""
    prediction_weight: NonNegativeFloat = 1.0
    label_weight: NonNegativeFloat = 1.0
    published_sums: bool = False
    """As coded by the paper's authors: the representation's term twice, the KL summed over the batch, regularization
    twice."""

    @property
    def is_on(self) -> bool:
        """Whether there is a teacher."""
        return self.model is not None or self.checkpoint is not None

    @pydantic.model_validator(mode="after")
    def _check_one(self) -> TeacherConfig:
        if self.model is not None and self.checkpoint is not None:
            raise ValueError("checkpoint: a teacher is trained beside the student (model) or before it, not both")
        if not self.is_on:
            keys = ("representation_weight", "prediction_weight", "label_weight", "published_sums")
            self.check_unused(*keys, why="there is no teacher without model or checkpoint")
        return self
