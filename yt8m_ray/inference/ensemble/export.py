"""Checkpoints -> a quantized ensemble bundle whose quality was measured by a pool of workers on Ray."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yt8m_ray.artifacts.archive import open_folder
from yt8m_ray.artifacts.checkpoint import load_model
from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.cluster import Shared
from yt8m_ray.config.data import DataConfig
from yt8m_ray.config.document import flatten
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.preflight import check_first_videos
from yt8m_ray.data.pipeline.shards import bootstrap, expand_shards, split_folds
from yt8m_ray.data.video_keys import id_keys
from yt8m_ray.errors import ConfigError, NoShardsError
from yt8m_ray.inference.batch.worker_pool import batches_on_device, map_videos
from yt8m_ray.inference.bundle.document import BundleDocument
from yt8m_ray.inference.ensemble.candidates import choose_transforms, restore_ensemble, score_members
from yt8m_ray.inference.ensemble.choose_members import Costs, check_limits, choose
from yt8m_ray.inference.ensemble.held_out import SeenVideos, check_apart
from yt8m_ray.inference.ensemble.members import (
    Member,
    QualityMeter,
    StoredModel,
    assemble,
    check_agreement,
    check_vocabularies,
    load_members,
)
from yt8m_ray.inference.locate import locate_checkpoint
from yt8m_ray.inference.mlflow_model.registration import finishing, log_bundle
from yt8m_ray.inference.predictor import load_vocabulary
from yt8m_ray.models.cost import clip_latency_ms
from yt8m_ray.models.ensemble import Ensemble
from yt8m_ray.tracking.runs import Tracker, TrackingError, default_uri
from yt8m_ray.tracking.source import source_tags

logger = logging.getLogger(__name__)

_Pair = tuple[Ensemble, Ensemble]  # as trained, as stored


def _load_pair(config: ExportConfig, stored: Sequence[Shared[StoredModel]], *, device: str) -> _Pair:
    # Weights as trained are read from the checkpoints, as Ray's store has no room for all of them in float32.
    trained = [load_model(member.checkpoint, ema=member.ema)[0] for member in config.members]
    weights = config.weights()
    return Ensemble(trained, weights).to(device).eval(), restore_ensemble(stored, weights, device=device)


def _measure(
    pair: _Pair, videos: PackedVideos, *, data: DataConfig, batch_size: int
) -> tuple[list[QualityMeter], np.ndarray]:
    """Returns the meters of the two ensembles, and the ids of the videos as `id_keys` gives them."""
    meters = [QualityMeter(len(ensemble.members)) for ensemble in pair]
    for batch in batches_on_device(videos, data, pair[0].log_weights.device, batch_size=batch_size):
        for meter, ensemble in zip(meters, pair, strict=True):
            meter.update(ensemble, batch)
    return meters, id_keys(videos.video_ids.tolist())


def resolve(config: ExportConfig) -> tuple[ExportConfig, list[str]]:
    """Returns (`config` with absolute paths, the shards to measure on), after every check that needs no cluster.

    Where members, weights or transforms are chosen, its `weighting.shards` are a list of paths.

    Raises:
        ConfigError: the output exists already, a member is no checkpoint, or weights would be found on shards that a
            member was trained on or that the bundle is measured on.
        NoShardsError: there is nothing to measure on, or to choose by.
        ValueError, OSError: the members do not go together, or their vocabulary cannot be read.
    """
    if "://" in config.output:
        raise ConfigError(f"output: a bundle is written to a local path, found {config.output}; copy it afterwards")
    output = Path(config.output).absolute()
    if output.exists():
        raise ConfigError(f"output: {output} exists already; a bundle is never written over")
    members, data = [], []
    for index, member in enumerate(config.members):
        try:
            folder = locate_checkpoint(member.checkpoint)
            data.append(load_config(folder).data)
        except (CheckpointError, ConfigError) as error:
            raise ConfigError(f"members.{index}.checkpoint: {error}") from None
        members.append(member.model_copy(update={"checkpoint": str(folder)}))
    names = [member.checkpoint for member in members]
    check_agreement(names, data)
    check_vocabularies(names, [load_vocabulary(read.vocabulary, read.spec) for read in data])
    patterns = config.data.validation if config.data.validation is not None else data[0].validation
    shards = expand_shards(patterns, key="data.validation")
    weighting = config.weighting
    if config.needs_scores or config.needs_transforms:
        weighting = weighting.model_copy(update={"shards": _weighting_shards(config, data, shards)})
    return config.model_copy(update={"members": tuple(members), "output": str(output), "weighting": weighting}), shards


def check_records(config: ExportConfig, shards: Sequence[str]) -> None:
    """Checks that the first videos of all shards fit the members and are labelled; arguments are from `resolve`."""
    data = load_config(config.members[0].checkpoint).data
    check_first_videos(shards, data.spec, data.read_options, key="data.validation")
    if isinstance(config.weighting.shards, list):
        check_first_videos(config.weighting.shards, data.spec, data.read_options, key="weighting.shards")


def _weighting_shards(config: ExportConfig, data: Sequence[DataConfig], validation: Sequence[str]) -> list[str]:
    """Returns the shards that weights are found on, which neither judge them nor taught a member."""
    shards = expand_shards(config.weighting.shards, key="weighting.shards")
    check_apart(shards, validation, other_key="data.validation")
    for index, read in enumerate(data):
        try:
            trained_on = expand_shards(read.train, key="data.train")
        except (NoShardsError, OSError):
            continue  # trained elsewhere, or imported
        # What the member did read of them: its fold's training part, and of that its bootstrap sample.
        if read.folds is not None and len(trained_on) >= read.folds:
            trained_on, _ = split_folds(trained_on, num_folds=read.folds, fold=read.fold, seed=read.split_seed)
        if read.bagging is not None:
            trained_on = sorted(set(bootstrap(trained_on, seed=read.bagging)))
        check_apart(shards, trained_on, other_key=f"data.train of members.{index}")
    return shards


def export(config: ExportConfig, shards: Sequence[str], *, num_workers: int = 1) -> tuple[Path, BundleDocument]:
    """Writes the bundle that `config` describes and returns its folder or tar, and its document.

    Both arguments are from `resolve`.

    Raises:
        ConfigError: no member fits the limits.
        ValueError, OSError: a checkpoint or a shard cannot be read, or videos that weights were found on are to measure
            them too.
    """
    asked, report, trials, seen = config, None, None, None
    members = load_members(config)
    if config.needs_transforms:
        config, members, trials, video_keys = choose_transforms(config, members, num_workers=num_workers)
        seen = SeenVideos(video_keys)
    if config.needs_scores:
        costs = _costs(config, members)
        # Before the minutes that scoring takes.
        check_limits(config, costs)
        logger.info("asking %d models about the videos of weighting.shards", len(members))
        scores = score_members(config, members, num_workers=num_workers)
        seen = SeenVideos(scores.video_keys)
        names = [member.config.model.name for member in members]
        shares, report = choose(config, names, scores, costs)
        members = [member for member, share in zip(members, shares, strict=True) if share > 0]
        config = config.chosen(shares.tolist())
    logger.info("measuring %d models, as trained and as stored, on data.validation", len(members))
    before, after = QualityMeter(len(members)), QualityMeter(len(members))
    data = members[0].config.data
    answers = map_videos(
        shards,
        data.spec,
        functools.partial(_load_pair, config, [Shared(member.stored) for member in members]),
        functools.partial(_measure, data=data, batch_size=config.data.batch_size),
        num_workers=num_workers,
        options=data.read_options,
        key="data.validation",
    )
    for answer in answers:
        meters, video_keys = answer.result
        if seen is not None:
            seen.check_new(video_keys)
        for meter, part in zip((before, after), meters, strict=True):
            meter.merge(part)
    path, document = assemble(
        config, members, before=before, after=after, split=shards, weighting=report, trials=trials
    )
    _track(asked, members[0].config, path, document)
    return path, document


def _costs(config: ExportConfig, members: Sequence[Member]) -> Costs:
    num_bytes = [member.stored.num_bytes for member in members]
    if config.selection is None or config.selection.max_latency_ms is None:
        return Costs(num_bytes)
    data = members[0].config.data
    num_frames = 1 if data.spec.is_video_level else data.max_frames
    return Costs(num_bytes, [clip_latency_ms(member.stored.restore(), num_frames=num_frames) for member in members])


def _track(config: ExportConfig, trained: TrainConfig, path: Path, document: BundleDocument) -> None:
    """Logs the bundle as the model of an MLflow run of its own."""
    uri = config.tracking.uri or trained.tracking.uri or default_uri(trained.output)
    store = uri.removeprefix("sqlite:///")
    # The first member's own local store: where it is gone, nobody would look for a new one there.
    if config.tracking.uri is None and store != uri and not Path(store).exists():
        logger.info("MLflow: %s does not exist here; name a store in tracking.uri to log the bundle", uri)
        return
    tracker = Tracker.start(
        uri,
        experiment=config.tracking.experiment,
        run_name=path.name,
        params=flatten(config),
        artifact_path=Path(trained.output) / "mlartifacts",
        tags=source_tags("export"),
    )
    try:
        with finishing(tracker):
            log_bundle(tracker, open_folder(path), document)
    except TrackingError as error:
        message = f"{path} is written, but not in MLflow, where yt8m register puts it: {error}"
        raise TrackingError(message, is_temporary=error.is_temporary) from None
    logger.info("MLflow: run %s in %s", tracker.run_id, uri)
