"""Checkpoint or bundle and labelled shards -> exact metrics, computed by a pool of workers on Ray."""

from __future__ import annotations

import logging
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from yt8m_ray.checkpoint import load_config
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.config.train import DataConfig
from yt8m_ray.data.batch import PackedVideos, to_batch
from yt8m_ray.data.dataset import expand_shards, map_blocks, read_dataset
from yt8m_ray.evaluation import Evaluation, evaluate
from yt8m_ray.inference.bundle import DOCUMENT_FILE, load_bundle
from yt8m_ray.inference.offline import BATCH_SIZE, CPUS_PER_WORKER, PROGRESS_INTERVAL_S
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.losses import build_loss
from yt8m_ray.registry import ComponentConfig

logger = logging.getLogger(__name__)


class BlockEvaluator:
    """Evaluates whole blocks of a dataset: what each worker runs.

    Args:
        path: A checkpoint or a bundle, at the same place on every node.
        loss: The loss to report.
    """

    def __init__(self, path: str, loss: ComponentConfig) -> None:
        self._predictor = Predictor.from_path(path)
        self._loss = build_loss(loss)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Returns one row with the block's evaluation. It is pickled as Ray itself pickles, within one cluster."""
        spec, device = self._predictor.spec, self._predictor.device
        videos = PackedVideos.from_block(block, spec)
        batches = (
            to_batch(
                videos.select(np.arange(start, min(start + BATCH_SIZE, len(videos)))),
                num_classes=spec.num_classes,
                normalize=self._predictor.normalize,
                device=device,
            )
            for start in range(0, len(videos), BATCH_SIZE)
        )
        evaluation = evaluate(self._predictor.model, batches, self._loss)
        return pa.table({"evaluation": pa.array([pickle.dumps(evaluation)], pa.large_binary())})


def evaluation_config(model_path: str) -> EvaluateConfig:
    """Returns how a checkpoint or a bundle reads its data, to be completed with `data.test`."""
    if (Path(model_path) / DOCUMENT_FILE).is_file():
        document = load_bundle(model_path).document
        return EvaluateConfig(
            data=DataConfig(
                features=document.features,
                num_classes=document.num_classes,
                max_frames=document.max_frames,
                normalize=document.normalize,
            )
        )
    config = load_config(model_path)
    return EvaluateConfig(data=config.data, loss=config.loss)


def evaluate_shards(model_path: str, config: EvaluateConfig) -> dict[str, float]:
    """Returns num_videos, gap, hit_at_1, perr, mean_ap, mean_ap_num_classes, loss and videos_per_s over every video.

    Args:
        model_path: A checkpoint or a bundle.
        config: What to evaluate it on.

    Raises:
        ValueError, OSError: the model or a shard cannot be read, or the shards hold no video.
    """
    data = config.data
    paths = expand_shards(data.test, key="data.test")
    evaluation = Evaluation()
    started = reported = time.monotonic()
    blocks = map_blocks(
        read_dataset(paths, data.spec, verify_checksums=data.verify_checksums),
        BlockEvaluator,
        (model_path, config.loss),
        num_workers=config.scaling.num_workers,
        cpus_per_worker=CPUS_PER_WORKER,
    )
    for block in blocks:
        for state in block["evaluation"].to_pylist():
            evaluation.merge(pickle.loads(state))
        if time.monotonic() - reported > PROGRESS_INTERVAL_S:
            reported = time.monotonic()
            logger.info("%d videos, %.0f videos/s", evaluation.num_videos, evaluation.num_videos / (reported - started))
    if not evaluation.num_videos:
        raise ValueError("data.test: the shards hold no video")
    return {**evaluation.compute(), "videos_per_s": round(evaluation.num_videos / (time.monotonic() - started), 1)}
