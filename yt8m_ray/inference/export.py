"""Checkpoints -> a quantized ensemble bundle whose quality was measured by a pool of workers on Ray."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from yt8m_ray.checkpoint import CheckpointError, load_config, local_folder
from yt8m_ray.config.document import ConfigError, flatten
from yt8m_ray.config.export import ExportConfig, MemberConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import batches_of, to_batch
from yt8m_ray.data.dataset import expand_shards
from yt8m_ray.data.packed import PackedVideos
from yt8m_ray.data.reader import ReadOptions
from yt8m_ray.inference.archive import open_folder
from yt8m_ray.inference.bundle import BundleDocument
from yt8m_ray.inference.ensemble import check_agreement
from yt8m_ray.inference.members import QualityMeter, assemble, ensembles, load_members
from yt8m_ray.inference.pool import map_videos
from yt8m_ray.inference.predictor import load_vocabulary
from yt8m_ray.inference.registration import log_bundle
from yt8m_ray.tracking import Tracker, default_uri

logger = logging.getLogger(__name__)


class BlockMeter:
    """Measures the videos of a block before and after the transform: what each worker runs.

    Args:
        config: The export; its checkpoints lie at the same place on every node.
        device: Where the models run.
    """

    def __init__(self, config: ExportConfig, *, device: str) -> None:
        members = load_members(config, device=device)
        self._data = members[0].config.data
        self._batch_size = config.data.batch_size
        self._device = device
        self._ensembles = ensembles(config, members)

    def __call__(self, videos: PackedVideos) -> list[QualityMeter]:
        """Returns the block's two meters."""
        meters = [QualityMeter(len(ensemble.members)) for ensemble in self._ensembles]
        for part in batches_of([videos], batch_size=self._batch_size):
            batch = to_batch(part, spec=self._data.spec, normalize=self._data.normalize, device=self._device)
            for meter, ensemble in zip(meters, self._ensembles, strict=True):
                meter.update(ensemble, batch)
        return meters


def resolve(config: ExportConfig) -> tuple[ExportConfig, list[str]]:
    """Returns (`config` with absolute paths, the shards to measure on), after every check that needs no cluster.

    Raises:
        ConfigError: the output exists already, or a member is no checkpoint.
        NoShardsError: there is nothing to measure on.
        ValueError, OSError: the members do not go together, or their vocabulary cannot be read.
    """
    output = Path(config.output).absolute()
    if output.exists():
        raise ConfigError(f"output: {output} exists already; a bundle is never written over")
    members, data = [], []
    for index, member in enumerate(config.members):
        try:
            folder = local_folder(member.checkpoint)
            data.append(load_config(folder).data)
        except CheckpointError as error:
            raise ConfigError(f"members.{index}.checkpoint: {error}") from None
        members.append(MemberConfig(checkpoint=str(folder), weight=member.weight))
    check_agreement([member.checkpoint for member in members], data)
    load_vocabulary(data[0].vocabulary, data[0].num_classes)
    patterns = config.data.validation if config.data.validation is not None else data[0].validation
    shards = expand_shards(patterns, key="data.validation")
    return config.model_copy(update={"members": tuple(members), "output": str(output)}), shards


def export(config: ExportConfig, shards: Sequence[str], *, num_workers: int = 1) -> tuple[Path, BundleDocument]:
    """Writes the bundle that `config` describes; both arguments are from `resolve`.

    Returns:
        The bundle, a folder or a tar, and what was measured of it.

    Raises:
        ValueError, OSError: a checkpoint or a shard cannot be read.
    """
    members = load_members(config)
    data = members[0].config.data
    before, after = QualityMeter(len(members)), QualityMeter(len(members))
    answers = map_videos(
        shards,
        data.spec,
        BlockMeter,
        (config,),
        num_workers=num_workers,
        options=ReadOptions(verify_checksums=data.verify_checksums, on_corrupt=data.on_corrupt),
    )
    for answer in answers:
        for meter, part in zip((before, after), answer.result, strict=True):
            meter.merge(part)
    path, document = assemble(config, members, before=before, after=after, split=shards)
    _track(config, members[0].config, path, document)
    return path, document


def _track(config: ExportConfig, trained: TrainConfig, path: Path, document: BundleDocument) -> None:
    """Logs the bundle as the model of an MLflow run of its own; a local store that is gone is not made anew."""
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
    log_bundle(tracker, open_folder(path), document)
    tracker.finish("FINISHED")
    logger.info("MLflow: run %s in %s", tracker.run_id, uri)
