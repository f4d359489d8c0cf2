"""Model and batches -> metrics, exact over every video. Torch only; partial evaluations merge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from yt8m_ray.metrics import METRICS, Metric, build_metric
from yt8m_ray.metrics.base import RankedBatch
from yt8m_ray.metrics.curves import calibration, class_arrays
from yt8m_ray.metrics.gap import MeanAP
from yt8m_ray.metrics.worst_videos import WorstVideos
from yt8m_ray.schema import Batch
from yt8m_ray.topk import check_scores

_FIRST = ("gap", "hit_at_1", "perr", "mean_ap")


class Evaluation:
    """Metrics and mean loss of the videos seen so far; mergeable and picklable."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {
            name: build_metric(name) for name in dict.fromkeys([*_FIRST, *METRICS.names()])
        }
        self._worst = WorstVideos()
        self._loss_sum = 0.0
        self.num_videos = 0

    def update(
        self, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor, video_ids: Sequence[str] = ()
    ) -> None:
        """Adds a batch: logits and labels [B, C], `loss` the mean over its B videos; ids where the worst are wanted."""
        if not len(logits):
            return
        # All metrics share one selection of the best classes.
        batch = RankedBatch(torch.sigmoid(logits.float()), labels)
        for metric in self._metrics.values():
            metric.update_ranked(batch)
        if video_ids:
            self._worst.update_ranked(batch, video_ids)
        self._loss_sum += float(loss) * len(logits)
        self.num_videos += len(logits)

    def merge(self, other: Evaluation) -> None:
        """Adds everything that `other` has seen."""
        for name, metric in self._metrics.items():
            metric.merge(other._metrics[name])
        self._worst.merge(other._worst)
        self._loss_sum += other._loss_sum
        self.num_videos += other.num_videos

    def compute(self) -> dict[str, float]:
        """Returns num_videos, gap, hit_at_1, perr, mean_ap, mean_ap_num_classes, loss and what users registered."""
        values = {name: metric.compute() for name, metric in self._metrics.items()}
        loss = self._loss_sum / self.num_videos if self.num_videos else math.nan
        num_classes = self._mean_ap.num_classes
        return {"num_videos": self.num_videos, **values, "mean_ap_num_classes": num_classes, "loss": loss}

    def check_scorable(self, key: str) -> None:
        """Checks that a video was seen that has a label; ValueError names `key`, where the videos come from."""
        if not self.num_videos:
            raise ValueError(f"{key}: the shards hold no video")
        if not self._mean_ap.num_classes:
            raise ValueError(f"{key}: none of its {self.num_videos} videos has a label; nothing can be scored")

    def details(self) -> dict[str, np.ndarray]:
        """Returns the arrays of a report: `class_arrays`, `calibration`, and `WorstVideos.arrays` as `worst_...`."""
        if not self.num_videos:
            return {}
        worst = {f"worst_{name}": array for name, array in self._worst.arrays().items()}
        return {**class_arrays(self._mean_ap), **calibration(self._mean_ap), **worst}

    @property
    def _mean_ap(self) -> MeanAP:
        metric = self._metrics["mean_ap"]
        assert isinstance(metric, MeanAP)
        return metric


def evaluate(model: torch.nn.Module, batches: Iterable[Batch], loss: torch.nn.Module) -> Evaluation:
    """Returns the evaluation of labelled batches in eval mode; NaNScoresError where scores are not numbers."""
    evaluation = Evaluation()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                if batch.labels is None:
                    raise ValueError("evaluate: a batch without labels cannot be scored")
                logits = model(batch.frames, batch.num_frames)
                check_scores(logits, batch.video_ids)
                evaluation.update(logits, batch.labels, loss(logits.float(), batch.labels), batch.video_ids)
    finally:
        model.train(was_training)
    return evaluation
