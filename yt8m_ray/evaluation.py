"""Model and batches -> metrics, exact over every video. Torch only; partial evaluations merge."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from yt8m_ray.metrics import Metric, build_metric, update_all
from yt8m_ray.schema import Batch

METRIC_NAMES = ("gap", "hit_at_1", "perr", "mean_ap")


class Evaluation:
    """Metrics and mean loss of the videos seen so far; mergeable and picklable."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {name: build_metric(name) for name in METRIC_NAMES}
        self._loss_sum = 0.0
        self.num_videos = 0

    def update(self, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Adds a batch: logits and labels [B, C], `loss` the mean over its B videos."""
        if not len(logits):
            return
        update_all(self._metrics.values(), torch.sigmoid(logits.float()), labels)
        self._loss_sum += float(loss) * len(logits)
        self.num_videos += len(logits)

    def merge(self, other: Evaluation) -> None:
        """Adds everything that `other` has seen."""
        for name, metric in self._metrics.items():
            metric.merge(other._metrics[name])
        self._loss_sum += other._loss_sum
        self.num_videos += other.num_videos

    def compute(self) -> dict[str, float]:
        """Returns num_videos, gap, hit_at_1, perr, mean_ap, mean_ap_num_classes and loss."""
        values = {name: metric.compute() for name, metric in self._metrics.items()}
        num_classes = getattr(self._metrics["mean_ap"], "num_classes")  # noqa: B009 - only this metric has it
        loss = self._loss_sum / self.num_videos if self.num_videos else math.nan
        return {"num_videos": self.num_videos, **values, "mean_ap_num_classes": num_classes, "loss": loss}


def evaluate(model: torch.nn.Module, batches: Iterable[Batch], loss: torch.nn.Module) -> Evaluation:
    """Returns the evaluation of labelled batches in eval mode; the model's mode is put back afterwards."""
    evaluation = Evaluation()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                if batch.labels is None:
                    raise ValueError("evaluate: a batch without labels cannot be scored")
                logits = model(batch.frames, batch.num_frames)
                evaluation.update(logits, batch.labels, loss(logits.float(), batch.labels))
    finally:
        model.train(was_training)
    return evaluation
