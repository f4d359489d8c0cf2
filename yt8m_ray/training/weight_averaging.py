"""Checkpoints of one model -> a checkpoint with the mean of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yt8m_ray.artifacts.checkpoint import load_model, read_weights, save_checkpoint, weights_path
from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.artifacts.folder_manifest import check_new, written_aside
from yt8m_ray.config.train import changes
from yt8m_ray.data.storage.folders import is_remote
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.locate import locate_checkpoint
from yt8m_ray.models.ensemble import WEIGHT_TOLERANCE
from yt8m_ray.training.steps.ema import move_towards

# Keys that have to be equal: weights of models that differ there have no mean, or no common input.
_SAME = ("model.", "data.features", "data.num_classes", "data.max_frames", "data.normalize")


def average_checkpoints(
    paths: Sequence[str | Path],
    folder: str | Path,
    *,
    weights: Sequence[float] | None = None,
    ema: bool | None = None,
) -> Path:
    """Writes a checkpoint whose weights and batch-norm statistics are a weighted mean, and returns its folder.

    Integers, which have no mean, are the last checkpoint's; the config is the first one's. The folder is written whole
    or not at all.

    `paths` are as `locate_model` takes them; `weights` are a positive share of each, with the sum 1, or None for equal
    ones; `ema` is as in `yt8m_ray.artifacts.checkpoint.load_model`.

    Raises:
        ConfigError: the folder is taken, or the checkpoints are of different models; says which and in what.
        CheckpointError: one of them is damaged.
    """
    folder = Path(folder)
    first, *others = map(locate_checkpoint, paths)
    shares = [1 / len(paths)] * len(paths) if weights is None else list(weights)
    if len(shares) != len(paths):
        raise ConfigError(f"weights: expected one a checkpoint, {len(paths)}, found {len(shares)}")
    if min(shares) <= 0 or abs(sum(shares) - 1) > WEIGHT_TOLERANCE:
        raise ConfigError(f"weights: expected positive numbers with the sum 1, found {shares}")
    check_new(folder)
    config = load_config(first)
    # All of them are compared before the first is read.
    for path in others:
        found = changes(config, load_config(path))
        wrong = [f"{key} is {new!r}, {old!r} in {first}" for key, old, new in found if key.startswith(_SAME)]
        if wrong:
            raise ConfigError(f"{path}: no mean of different models: {'; '.join(wrong)}")
    model, _ = load_model(first, ema=ema)
    # A running mean: one checkpoint at a time is in memory besides it.
    mean, total = model.state_dict(), shares[0]
    for path, share in zip(others, shares[1:], strict=True):
        total += share
        move_towards(mean, read_weights(weights_path(path, ema=ema), mean), share / total)
    with written_aside(folder) as aside:
        places = [
            str(path) if is_remote(str(path)) else str(place)
            for path, place in zip(paths, [first, *others], strict=True)
        ]
        facts = {"averaged_from": places, "weights": shares}
        save_checkpoint(aside, config=config, model=model, state={}, facts=facts)
    return folder
