"""Checkpoint or bundle and labelled shards -> exact metrics, computed by a pool of workers on Ray."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from yt8m_ray.checkpoint import load_config
from yt8m_ray.config.evaluate import EvaluateConfig, EvaluateDataConfig
from yt8m_ray.data.batch import PackedVideos, batches_of, to_batch
from yt8m_ray.evaluation import Evaluation, evaluate
from yt8m_ray.inference.pool import BATCH_SIZE, map_videos
from yt8m_ray.inference.predictor import Predictor, is_bundle, read_spec
from yt8m_ray.losses import build_loss
from yt8m_ray.registry import ComponentConfig


class BlockEvaluator:
    """Evaluates whole blocks of a dataset: what each worker runs.

    Args:
        path: A checkpoint or a bundle, at the same place on every node.
        loss: The loss to report.
        device: Where the model runs.
    """

    def __init__(self, path: Path, loss: ComponentConfig, *, device: str) -> None:
        self._predictor = Predictor.from_path(path, device=device)
        self._loss = build_loss(loss).to(device)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Returns one row with the block's evaluation. It is pickled as Ray itself pickles, within one cluster."""
        spec, device = self._predictor.spec, self._predictor.device
        videos = PackedVideos.from_block(block, spec)
        batches = (
            to_batch(
                part,
                spec=spec,
                normalize=self._predictor.normalize,
                device=device,
            )
            for part in batches_of([videos], batch_size=BATCH_SIZE)
        )
        evaluation = evaluate(self._predictor.model, batches, self._loss)
        return pa.table({"evaluation": pa.array([pickle.dumps(evaluation)], pa.large_binary())})


def evaluation_config(model_path: Path) -> EvaluateConfig:
    """Returns how a checkpoint or a bundle is evaluated unless it is said otherwise: as its training was validated."""
    if is_bundle(model_path):
        return EvaluateConfig()
    config = load_config(model_path)
    data = EvaluateDataConfig(test=config.data.test, verify_checksums=config.data.verify_checksums)
    return EvaluateConfig(data=data, loss=config.loss)


def evaluate_shards(model_path: Path, shards: Sequence[str], config: EvaluateConfig) -> dict[str, float]:
    """Returns num_videos, gap, hit_at_1, perr, mean_ap, mean_ap_num_classes, loss and videos_per_s over every video.

    Args:
        model_path: A checkpoint or a bundle, absolute, from `locate_model`.
        shards: What `config.data.test` names.
        config: How to evaluate it.

    Raises:
        ValueError, OSError: the model or a shard cannot be read, or the shards hold no video.
    """
    evaluation = Evaluation()
    started = time.monotonic()
    blocks = map_videos(
        shards,
        read_spec(model_path),
        BlockEvaluator,
        (model_path, config.loss),
        num_workers=config.scaling.num_workers,
        num_done=lambda: evaluation.num_videos,
        verify_checksums=config.data.verify_checksums,
    )
    for block in blocks:
        for state in block["evaluation"].to_pylist():
            evaluation.merge(pickle.loads(state))
    if not evaluation.num_videos:
        raise ValueError("data.test: the shards hold no video")
    return {**evaluation.compute(), "videos_per_s": round(evaluation.num_videos / (time.monotonic() - started), 1)}
