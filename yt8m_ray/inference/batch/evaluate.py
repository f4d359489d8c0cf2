"""A checkpoint, a bundle or the checkpoints of a run, and labelled shards -> exact metrics."""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yt8m_ray.artifacts.checkpoint_folders import CHECKPOINT_PATTERN
from yt8m_ray.artifacts.folder_manifest import (
    MANIFEST_FILE,
    CheckpointError,
    NoSuchFolderError,
    local_folder,
    read_manifest,
)
from yt8m_ray.config.document import override
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.data.errors import UNLABELLED
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.preflight import check_first_videos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.read_position import CAUSES
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.data.storage.folders import is_remote, join_uri, list_folders, read_file
from yt8m_ray.errors import ConfigError
from yt8m_ray.evaluation import Evaluation, evaluate
from yt8m_ray.inference.batch.worker_pool import batches_on_device, map_videos
from yt8m_ray.inference.evaluation_config import evaluation_config
from yt8m_ray.inference.predictor import Predictor, read_spec
from yt8m_ray.json_document import parse_json
from yt8m_ray.losses import build_loss
from yt8m_ray.registry import ComponentConfig

logger = logging.getLogger(__name__)

# Between looks for a new checkpoint.
INTERVAL_S = 2.0
# What training writes of a run: its status, and the id of its run in MLflow.
_RUN_FILE = "run.json"


def _evaluate(predictor: Predictor, videos: PackedVideos, *, loss: ComponentConfig) -> Evaluation:
    batches = batches_on_device(videos, predictor, predictor.device)
    return evaluate(predictor.model, batches, build_loss(loss).to(predictor.device))


def evaluate_shards(model_path: Path, shards: Sequence[str], config: EvaluateConfig) -> dict[str, Any]:
    """Returns `Evaluation.compute`, num_unlabelled, num_rejected, `rejected` by cause, and videos_per_s."""
    started = time.monotonic()
    evaluation, left_out = evaluation_of(model_path, shards, config)
    rate = round(evaluation.num_videos / (time.monotonic() - started), 1)
    rejected = {cause: left_out[cause] for cause in CAUSES}
    counts = {"num_unlabelled": left_out[UNLABELLED], "num_rejected": sum(rejected.values()), "rejected": rejected}
    return {**evaluation.compute(), **counts, "videos_per_s": rate}


def shards_of(model_path: Path, config: EvaluateConfig) -> list[str]:
    """Returns the shards that an evaluation reads; errors as in `expand_shards` and `check_first_videos`."""
    shards = expand_shards(config.data.test, key="data.test")
    # In seconds, before a cluster is started.
    check_first_videos(shards, read_spec(model_path), _read_options(config), key="data.test")
    return shards


def _read_options(config: EvaluateConfig) -> ReadOptions:
    data = config.data
    return ReadOptions(verify_checksums=data.verify_checksums, labels="required", on_corrupt=data.on_corrupt)


def evaluation_of(model_path: Path, shards: Sequence[str], config: EvaluateConfig) -> tuple[Evaluation, Counter[str]]:
    """Returns the evaluation of every labelled video, which others can be added to, and what was left out by cause.

    ValueError or OSError where the model or a shard cannot be read, or the shards hold no video with labels.
    """
    evaluation = Evaluation()
    answers = map_videos(
        shards,
        read_spec(model_path),
        functools.partial(Predictor.from_path, model_path, ema=config.ema),
        functools.partial(_evaluate, loss=config.loss),
        num_workers=config.scaling.num_workers,
        options=_read_options(config),
        key="data.test",
    )
    left_out: Counter[str] = Counter()
    for answer in answers:
        evaluation.merge(answer.result)
        left_out.update(rejection.cause for rejection in answer.rejections)
    evaluation.check_scorable("data.test")
    return evaluation, left_out


def watch(run: str, changes: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Yields `checkpoint` (a name), `step` and the scores of each intact checkpoint of a run, until the run has ended.

    Args:
        run: The run's folder, which all nodes see, or its URI; NoSuchFolderError where it is none.
        changes: What differs from `evaluation_config`, by dotted key.
    """
    if not is_remote(run):
        run = str(Path(run).absolute())
    if _status(run) is None and not _names(run):
        raise NoSuchFolderError(f"{run}: expected a run's folder (has {_RUN_FILE} or {CHECKPOINT_PATTERN})")
    if "data.test" in changes:
        # Refused at once, not when the first checkpoint appears.
        expand_shards(override(EvaluateConfig(), changes).data.test, key="data.test")
    scored: set[str] = set()
    while True:
        # Asked before the look, so that a checkpoint which is written between the two is not missed.
        is_last_look = _status(run) != "running"
        for name in _names(run):
            if name not in scored and (scores := _score(run, name, changes)) is not None:
                scored.add(name)
                yield scores
        if is_last_look:
            return
        time.sleep(INTERVAL_S)


def _score(run: str, name: str, changes: Mapping[str, object]) -> dict[str, object] | None:
    """Returns the scores of a checkpoint; None where it is broken, or was removed."""
    try:
        path = local_folder(join_uri(run, name))
        step = read_manifest(path, kind="checkpoint").get("step")
        config = override(evaluation_config(path), changes)
        scores = evaluate_shards(path, shards_of(path, config), config)
    except CheckpointError as error:
        logger.warning("passed over: %s", error)
        return None
    except (ValueError, OSError):
        # A run removes its older checkpoints, even while they are read.
        if name in _names(run):
            raise
        logger.warning("passed over: %s was removed while it was read; raise checkpoint.num_to_keep", name)
        return None
    return {"checkpoint": name, "step": step, **scores}


def _names(run: str) -> list[str]:
    # In a store a checkpoint is complete when its manifest, the last file, is there.
    if is_remote(run):
        return list_folders(run, CHECKPOINT_PATTERN, last=MANIFEST_FILE)
    return sorted(path.name for path in Path(run).glob(CHECKPOINT_PATTERN))


def _status(run: str) -> str | None:
    place = join_uri(run, _RUN_FILE)
    content = read_file(place)
    if content is None:
        return None
    try:
        return str(parse_json(content, where=place)["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{place}: not the record of a run: {error}") from None
