"""Checkpoints -> a quantized ensemble bundle whose quality was measured by a pool of workers on Ray."""

from __future__ import annotations

import logging
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from yt8m_ray.config.document import ConfigError, flatten
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import PackedVideos, to_batch
from yt8m_ray.data.dataset import expand_shards, map_blocks, read_dataset
from yt8m_ray.inference.bundle import BundleDocument
from yt8m_ray.inference.members import QualityMeter, assemble, ensembles, load_members
from yt8m_ray.inference.offline import CPUS_PER_WORKER, PROGRESS_INTERVAL_S
from yt8m_ray.tracking import Tracker, default_uri

logger = logging.getLogger(__name__)


class BlockMeter:
    """Measures whole blocks of a dataset before and after the transform: what each worker runs.

    Args:
        config: The export; its checkpoints lie at the same place on every node.
    """

    def __init__(self, config: ExportConfig) -> None:
        members = load_members(config)
        self._data = members[0].config.data
        self._batch_size = config.data.batch_size
        self._ensembles = ensembles(config, members)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Returns one row with the block's two meters. They are pickled as Ray itself pickles, within one cluster."""
        videos = PackedVideos.from_block(block, self._data.spec)
        meters = [QualityMeter(len(ensemble.members)) for ensemble in self._ensembles]
        for start in range(0, len(videos), self._batch_size):
            part = videos.select(np.arange(start, min(start + self._batch_size, len(videos))))
            batch = to_batch(part, num_classes=self._data.num_classes, normalize=self._data.normalize)
            for meter, ensemble in zip(meters, self._ensembles, strict=True):
                meter.update(ensemble, batch)
        return pa.table({"meters": pa.array([pickle.dumps(meters)], pa.large_binary())})


def export(config: ExportConfig, *, num_workers: int = 1) -> tuple[Path, BundleDocument]:
    """Writes the bundle that `config` describes; returns its folder and what was measured.

    Raises:
        ConfigError: the output exists already.
        ValueError, OSError: a checkpoint or a shard cannot be read, or the members do not go together.
    """
    if Path(config.output).exists():
        raise ConfigError(f"output: {config.output} exists already; a bundle is never written over")
    members = load_members(config)
    data = members[0].config.data
    patterns = config.data.validation if config.data.validation is not None else data.validation
    shards = expand_shards(patterns, key="data.validation")
    before, after = QualityMeter(len(members)), QualityMeter(len(members))
    blocks = map_blocks(
        read_dataset(shards, data.spec, verify_checksums=data.verify_checksums),
        BlockMeter,
        (config,),
        num_workers=num_workers,
        cpus_per_worker=CPUS_PER_WORKER,
    )
    reported = time.monotonic()
    for block in blocks:
        for state in block["meters"].to_pylist():
            for meter, part in zip((before, after), pickle.loads(state), strict=True):
                meter.merge(part)
        if time.monotonic() - reported > PROGRESS_INTERVAL_S:
            reported = time.monotonic()
            logger.info("measured %d videos", before.num_videos)
    path, document = assemble(config, members, before=before, after=after, split=shards)
    _track(config, members[0].config, path, document)
    return path, document


def _track(config: ExportConfig, trained: TrainConfig, path: Path, document: BundleDocument) -> None:
    """Logs the bundle as an MLflow run of its own; a local store that is gone is not made anew."""
    uri = config.tracking.uri or trained.tracking.uri or default_uri(trained.output)
    if config.tracking.uri is None and uri.startswith("sqlite:///") and not Path(uri[len("sqlite:///") :]).exists():
        logger.info("MLflow: %s does not exist here; name a store in tracking.uri to log the bundle", uri)
        return
    tracker = Tracker.start(
        uri,
        experiment=config.tracking.experiment,
        run_name=path.name,
        params=flatten(config),
        artifact_path=Path(trained.output) / "mlartifacts",
    )
    gaps = {"validation/gap": document.quality.gap_after, "validation/gap_float32": document.quality.gap_before}
    tracker.log_metrics(gaps, step=0)
    tracker.log_artifacts(path, artifact_path="bundle")
    tracker.finish("FINISHED")
    logger.info("MLflow: run %s in %s", tracker.run_id, uri)
