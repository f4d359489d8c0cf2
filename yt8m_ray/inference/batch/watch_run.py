"""Scores the checkpoints of a run as they appear, on shards that the training itself does not validate on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from yt8m_ray.artifacts.checkpoint import CHECKPOINT_PATTERN
from yt8m_ray.artifacts.folder_manifest import (
    MANIFEST_FILE,
    CheckpointError,
    NoSuchFolderError,
    local_folder,
    read_manifest,
)
from yt8m_ray.config.document import override
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.data.storage.folders import is_remote, join_uri, list_folders, read_file
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.evaluate import evaluate_shards, evaluation_config, shards_of
from yt8m_ray.json_document import parse_json

logger = logging.getLogger(__name__)

# Between looks for a new checkpoint.
INTERVAL_S = 2.0

_RUN_FILE = "run.json"


def watch(run: str, changes: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Yields the scores of each intact checkpoint of a run, oldest first, until the run has ended.

    They are `checkpoint` (its name), `step`, and what `evaluate_shards` returns.

    Args:
        run: The run's folder, which all nodes see, or its URI.
        changes: What differs from `evaluation_config`, by dotted key.

    Raises:
        NoSuchFolderError: there is no such run.
        ConfigError, ValueError, OSError: as in `evaluate_shards`.
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
        # Asked before the look, so that what is written between the two is not missed.
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
