"""Checkpoints of one model -> a checkpoint with the mean of their weights. Torch only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from yt8m_ray.artifacts.checkpoint import load_config, load_model, read_weights, save_checkpoint, weights_path
from yt8m_ray.artifacts.folder_manifest import check_new, local_folder, written_aside
from yt8m_ray.config.document import flatten
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.storage.folders import is_remote
from yt8m_ray.errors import ConfigError

WEIGHT_TOLERANCE = 1e-4
"""How far the sum of the weights may lie from 1."""

_SAME = ("model.", "data.features", "data.num_classes", "data.max_frames", "data.normalize")
"""Keys that have to be equal: weights of models that differ there have no mean, or no common input."""


def average_checkpoints(
    paths: Sequence[str | Path],
    folder: str | Path,
    *,
    weights: Sequence[float] | None = None,
    ema: bool | None = None,
) -> Path:
    """Writes a checkpoint whose weights and batch-norm statistics are a weighted mean, and returns its folder.

    Integers, which have no mean, are the last checkpoint's; the config is the first one's. One checkpoint at a time is
    in memory besides the mean.

    Args:
        paths: Checkpoints of one model; local, or URIs.
        folder: A folder that does not exist yet, or is empty; it is there whole or not at all.
        weights: A positive share of each, with the sum 1; None weighs all alike.
        ema: As in `yt8m_ray.artifacts.checkpoint.load_model`.

    Raises:
        ConfigError: the folder is taken, or the checkpoints are of different models; says which and in what.
        CheckpointError: one of them is damaged.
    """
    folder = Path(folder)
    first, *others = map(local_folder, paths)
    shares = [1 / len(paths)] * len(paths) if weights is None else list(weights)
    _check_shares(shares, num_checkpoints=len(paths))
    check_new(folder)
    config = load_config(first)
    for path in others:
        _check_same(config, first, path)  # all of them before the first is read
    model, _ = load_model(first, ema=ema)
    mean, total = model.state_dict(), shares[0]
    for path, share in zip(others, shares[1:], strict=True):
        total += share
        _move_towards(mean, read_weights(weights_path(path, ema=ema)[0], mean), share / total)
    with written_aside(folder) as aside:
        places = [str(path) if is_remote(str(path)) else str(Path(path).absolute()) for path in paths]
        facts = {"averaged_from": places, "weights": shares}
        save_checkpoint(aside, config=config, model=model, state={}, facts=facts)
    return folder


@torch.no_grad()
def _move_towards(mean: dict[str, torch.Tensor], found: dict[str, torch.Tensor], share: float) -> None:
    """Makes `mean` (1 - share) * mean + share * found: of equal tensors exactly these."""
    floats = [name for name, tensor in mean.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([mean[name] for name in floats], [found[name] for name in floats], share)
    for name in mean.keys() - set(floats):
        mean[name].copy_(found[name])


def _check_shares(shares: Sequence[float], *, num_checkpoints: int) -> None:
    if len(shares) != num_checkpoints:
        raise ConfigError(f"--weights: expected one a checkpoint, {num_checkpoints}, found {len(shares)}")
    if min(shares) <= 0 or abs(sum(shares) - 1) > WEIGHT_TOLERANCE:
        raise ConfigError(f"--weights: expected positive numbers with the sum 1, found {list(shares)}")


def _check_same(config: TrainConfig, first: Path, path: Path) -> None:
    other = load_config(path)
    expected, found = flatten(config), flatten(other)
    keys = sorted(key for key in expected.keys() | found.keys() if key.startswith(_SAME))
    wrong = [
        f"{key} is {found.get(key)!r}, {expected.get(key)!r} in {first}"
        for key in keys
        if found.get(key) != expected.get(key)
    ]
    # Two dicts are equal in any order, but features are concatenated in theirs.
    if not wrong and list(config.data.features) != list(other.data.features):
        wrong = [
            f"data.features come in the order {list(other.data.features)}, {list(config.data.features)} in {first}"
        ]
    if wrong:
        raise ConfigError(f"{path}: no mean of different models: {'; '.join(wrong)}")
