"""What is wrong with the models of a config, beyond what its document says itself."""

from __future__ import annotations

from yt8m_ray.config.distillation import TeacherConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.models import Model, build_empty_model
from yt8m_ray.models.cost import representation_dim


def check_models(config: TrainConfig) -> None:
    """Builds the model, and a teacher beside it, without storage; ConfigError for what only building them can refuse.

    A model of another package that needs storage is left to the workers.
    """
    sizes, num_classes = config.data.feature_sizes, config.data.num_classes
    try:
        model = build_empty_model(config.model, feature_sizes=sizes, num_classes=num_classes)
        if config.teacher.model is not None:
            teacher = build_empty_model(config.teacher.model, feature_sizes=sizes, num_classes=num_classes)
            if model is not None and teacher is not None:
                check_pair(config.teacher, model, teacher)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def check_pair(config: TeacherConfig, student: Model, teacher: Model) -> None:
    """Checks that a student can imitate a teacher; both may be without storage. ConfigError says what differs."""
    for key, model in (("model", student), ("teacher", teacher)):
        if type(model).loss is not Model.loss:
            raise ConfigError(f"{key}: a model with a loss of its own neither teaches nor learns by imitation")
    if config.representation_weight:
        sizes = [representation_dim(model) for model in (student, teacher)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"teacher.representation_weight: the student's representation has {sizes[0]} values, the teacher's "
                f"{sizes[1]}; make them equal, or set it to 0"
            )
