"""What a step minimizes: the losses of labels, of a teacher's scores, and of a student that imitates its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from yt8m_ray.components.losses import CrossEntropyConfig
from yt8m_ray.config.distillation import DistillationConfig, TeacherConfig
from yt8m_ray.losses import Loss
from yt8m_ray.losses.cross_entropy import CrossEntropy
from yt8m_ray.models import Model


@dataclass(frozen=True)
class TeacherTargets:
    """What there is to learn from besides labels."""

    soft_labels: torch.Tensor | None = None  # a teacher's scores [B, C] in 0..1
    weights: torch.Tensor | None = None  # of each video [B]
    representation: torch.Tensor | None = None  # a frozen teacher's, [B, R]
    logits: torch.Tensor | None = None  # a frozen teacher's, [B, C]
    # Which published sums multiply means by: the videos of the step over all workers, or those of this worker where
    # gradients are added up.
    num_videos: int = 1


class Objective(torch.nn.Module):
    """The loss of a batch for `model`; a `teacher` is trained beside it, on labels alone."""

    def __init__(
        self,
        model: Model,
        criterion: Loss,
        *,
        distillation: DistillationConfig = DistillationConfig(),  # noqa: B008 - frozen
        teaching: TeacherConfig = TeacherConfig(),  # noqa: B008 - frozen
        teacher: Model | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.teacher = teacher
        self.distillation = distillation
        self.teaching = teaching
        # The published mixture has the same epsilon in both of its terms.
        epsilon = criterion.config.published_epsilon if isinstance(criterion, CrossEntropy) else 0.0
        self.soft_criterion = CrossEntropy(CrossEntropyConfig(published_epsilon=epsilon))

    def forward(
        self,
        frames: torch.Tensor,
        num_frames: torch.Tensor,
        labels: torch.Tensor,
        targets: TeacherTargets = TeacherTargets(),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (the mean loss over the batch, the model's logits [B, C] without a graph)."""
        config = self.teaching
        taught_representation, taught_logits = targets.representation, targets.logits
        if self.teacher is not None:
            representation = self.teacher.represent(frames, num_frames)
            logits = self.teacher.head(representation).float()
            teacher_loss = self.criterion(logits, labels, _of_rows(targets))
            # Without a graph: the student does not draw its teacher towards itself.
            taught_representation, taught_logits = representation.detach(), logits.detach()
        if taught_representation is None or taught_logits is None:
            return self._loss_of_labels(frames, num_frames, labels, targets)
        representation = self.model.represent(frames, num_frames)
        logits = self.model.head(representation).float()
        total = config.label_weight * self._label_loss(logits, labels, targets)
        if self.teacher is not None:
            total = total + teacher_loss
        if config.representation_weight:
            distance = mean_squared_distance(representation, taught_representation)
            total = total + config.representation_weight * distance * (2 if config.published_sums else 1)
        if config.prediction_weight:
            divergence = mean_divergence(logits, taught_logits)
            total = total + config.prediction_weight * divergence * (targets.num_videos if config.published_sums else 1)
        return total, logits.detach()

    def regularization(self) -> torch.Tensor:
        """Returns the l2 terms of all that is trained."""
        term = self.model.regularization()
        if self.teacher is not None:
            term = term + self.teacher.regularization()
        return 2 * term if self.teaching.is_on and self.teaching.published_sums else term

    def _loss_of_labels(
        self, frames: torch.Tensor, num_frames: torch.Tensor, labels: torch.Tensor, targets: TeacherTargets
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # A model may call the criterion several times, with the logits of `forward` first.
        seen: list[torch.Tensor] = []

        def criterion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            seen.append(logits.detach())
            return self._label_loss(logits, labels, targets)

        return self.model.loss(frames, num_frames, labels, criterion), seen[0]

    def _label_loss(self, logits: torch.Tensor, labels: torch.Tensor, targets: TeacherTargets) -> torch.Tensor:
        weights = _of_rows(targets)
        loss: torch.Tensor = self.criterion(logits, labels, weights)
        if targets.soft_labels is None:
            return loss
        weight, temperature = self.distillation.weight, self.distillation.temperature
        soft_labels = targets.soft_labels
        if temperature != 1:
            logits, soft_labels = logits / temperature, torch.sigmoid(torch.logit(soft_labels) / temperature)
        soft_loss: torch.Tensor = self.soft_criterion(logits, soft_labels, weights)
        # Gradients of softened scores shrink by T^2 (arXiv:1503.02531).
        return (1 - weight) * loss + weight * temperature**2 * soft_loss


def _of_rows(targets: TeacherTargets) -> torch.Tensor | None:
    """Returns the weights of the videos as a loss takes them, [B, 1]."""
    return None if targets.weights is None else targets.weights.unsqueeze(1)


def mean_squared_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns the squared distance of representations [B, R], summed over R and averaged over clips."""
    return (student.float() - teacher.float()).square().sum() / max(student.shape[0], 1)


def mean_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns KL(teacher || student) of logits [B, C], whose scores are divided by their sum; averaged over clips."""

    def log_shares(logits: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(F.logsigmoid(logits.float()), dim=1)

    log_teacher = log_shares(teacher)
    total = (log_teacher.exp() * (log_teacher - log_shares(student))).sum()
    return total / max(student.shape[0], 1)
