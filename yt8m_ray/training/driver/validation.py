"""The pass over the validation videos after an epoch, shared out among the workers of a run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from yt8m_ray.components import LOSSES
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.errors import UNLABELLED
from yt8m_ray.data.inspection.dataset_manifest import check_num_records
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_position import CAUSES, Position, check_labelled
from yt8m_ray.evaluation import Evaluation, evaluate
from yt8m_ray.training.steps.distributed import merge_over_workers, rank, share_buffers, sum_over_workers

logger = logging.getLogger(__name__)

Metrics = dict[str, float]
Details = Mapping[str, np.ndarray]


@dataclass
class Validation:
    """Measures a model on the validation videos; every call is collective."""

    config: TrainConfig
    shards: Sequence[str]  # none where the run has no validation
    num_records: Sequence[int] | None  # of each shard, where there is a manifest
    device: torch.device
    # `batches(position)` starts a pass over this worker's share; what the reader rejects goes to `position`.
    batches: Callable[[Position], Iterator[PackedVideos]]
    should_stop: Callable[[], bool]

    def __post_init__(self) -> None:
        self._loss = LOSSES.build(self.config.loss).to(self.device)

    def run(self, model: torch.nn.Module, *, epoch: int) -> tuple[Metrics, Details] | None:
        """Returns `validation/...` and, on rank 0, what a report shows besides; None where the run stops first."""
        if not self.shards:
            return {}, {}
        data, seen = self.config.data, Position()
        # All workers measure the same model.
        share_buffers(model)

        def counted(videos: PackedVideos) -> PackedVideos:
            seen.add(videos.shards, videos.records)
            return videos

        batches = (
            to_batch(counted(videos), spec=data.spec, normalize=data.normalize, device=self.device)
            for videos in itertools.takewhile(lambda _: not self.should_stop(), self.batches(seen))
        )
        evaluation = merge_over_workers(evaluate(model, batches, self._loss), Evaluation())
        position = merge_over_workers(seen, Position())
        # All workers decide alike, although a request to stop does not reach them at once.
        is_stopping = sum_over_workers([self.should_stop()], self.device)[0] > 0
        if is_stopping and not position.is_complete(len(self.shards)):
            if rank() == 0:
                logger.info("the validation is broken off; the next start makes up for it")
            return None
        check_complete(position, self.shards, self.num_records)
        check_labelled("data.validation", position, warns=rank() == 0 and not epoch)
        evaluation.check_scorable("data.validation")
        values = evaluation.compute()
        if rank() == 0:
            logger.info(
                "epoch %d/%d validation on %d videos: GAP %.4f  Hit@1 %.4f  PERR %.4f  mAP %.4f  loss %.4f",
                epoch + 1,
                self.config.train.num_epochs,
                evaluation.num_videos,
                *(values[name] for name in ("gap", "hit_at_1", "perr", "mean_ap", "loss")),
            )
        metrics = {f"validation/{name}": float(value) for name, value in values.items()}
        return metrics | rejected("validation", position), evaluation.details() if rank() == 0 else {}


def check_complete(position: Position, shards: Sequence[str], num_records: Sequence[int] | None) -> None:
    """Checks that a pass has read or rejected every record of the shards, as many as a manifest says there are."""
    position.check_complete(shards)
    if num_records is not None:
        check_num_records(shards, num_records, position.num_records)


def rejected(split: str, position: Position) -> Metrics:
    """Returns how many records were left out, by cause."""
    causes = {f"{split}/rejected_{cause}": float(position.rejected[cause]) for cause in CAUSES}
    # No fault of the record: it is counted by a name of its own.
    return {**causes, f"{split}/unlabelled": float(position.rejected[UNLABELLED])}
