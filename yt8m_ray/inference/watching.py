"""The checkpoints of a run, scored as they appear: for shards that the training itself does not validate on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from yt8m_ray.checkpoint import CHECKPOINT_PATTERN, CheckpointError, NoSuchFolderError, read_manifest
from yt8m_ray.config.document import ConfigError, override
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.data.dataset import expand_shards
from yt8m_ray.inference.scoring import evaluate_shards, evaluation_config

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""Seconds between looks for a new checkpoint."""

_RUN_FILE = "run.json"


def watch(run_path: str | Path, changes: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Yields the scores of each intact checkpoint of a run, oldest first and each once, until the run has ended.

    Args:
        run_path: The run's folder, on which all nodes agree.
        changes: To the way in which each would be evaluated, by dotted key; `data.test` among them.

    Yields:
        `checkpoint` (its name), `step`, and what `evaluate_shards` returns.

    Raises:
        NoSuchFolderError: there is no such run.
        ConfigError, ValueError, OSError: as `evaluate_shards` says.
    """
    folder = Path(run_path).absolute()
    if not (folder / _RUN_FILE).is_file() and not any(folder.glob(CHECKPOINT_PATTERN)):
        raise NoSuchFolderError(f"{folder}: expected a run's folder (has {_RUN_FILE} or {CHECKPOINT_PATTERN})")
    if "data.test" in changes:
        expand_shards(override(EvaluateConfig(), changes).data.test, key="data.test")  # or refused now, not later
    scored: set[str] = set()
    while True:
        is_last_look = _has_ended(folder)  # before the look: what is written between the two is not missed
        for path in sorted(folder.glob(CHECKPOINT_PATTERN)):
            if path.name not in scored and (scores := _score(path, changes)) is not None:
                scored.add(path.name)
                yield scores
        if is_last_look:
            return
        time.sleep(INTERVAL_S)


def _score(path: Path, changes: Mapping[str, object]) -> dict[str, object] | None:
    """Returns the scores of a checkpoint; None where it is broken, or was removed before it could be read."""
    try:
        step = read_manifest(path, kind="checkpoint").get("step")
        config = override(evaluation_config(path), changes)
        scores = evaluate_shards(path, expand_shards(config.data.test, key="data.test"), config)
    except CheckpointError as error:
        logger.warning("passed over: %s", error)
        return None
    except (ValueError, OSError):
        if path.exists():
            raise
        logger.warning("passed over: %s was removed while it was read; raise checkpoint.num_to_keep", path)
        return None
    return {"checkpoint": path.name, "step": step, **scores}


def _has_ended(folder: Path) -> bool:
    """Returns whether nobody trains the run: it says so, or it is no more than checkpoints."""
    try:
        status = json.loads((folder / _RUN_FILE).read_text(encoding="utf-8"))["status"]
    except FileNotFoundError:
        return True
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / _RUN_FILE}: not the record of a run: {error}") from None
    return bool(status != "running")
