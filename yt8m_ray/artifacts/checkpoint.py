"""A checkpoint is a sealed folder with a config, weights and the state of training. Loading one executes no code.

config.yaml              the run, with every default
model.safetensors        weights and statistics
state.safetensors        what training needs to continue
ema.safetensors          the moving average of the weights, if there is one
validation.safetensors   what a report shows of the validation besides the metrics, if there was one
teacher/                 a checkpoint of the model that was trained beside this one, if there was one
manifest.json            sizes and hashes, by which a write that was cut short is told from a checkpoint
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.artifacts.folder_manifest import (
    CONFIG_FILE,
    MODEL_FILE,
    STATE_FILE,
    CheckpointError,
    read_manifest,
    write_manifest,
    written_aside,
)
from yt8m_ray.artifacts.tensor_file import read_tensor_entries
from yt8m_ray.config.document import to_yaml
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.local_files import check_regular
from yt8m_ray.models import Model, build_model_for_weights

EMA_FILE = "ema.safetensors"
DETAILS_FILE = "validation.safetensors"
# The names in a safetensors file of the types that models have.
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}
_MOST_FAULTS = 10


def save_checkpoint(
    folder: str | Path,
    *,
    config: TrainConfig,
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    facts: Mapping[str, object],
    average: torch.nn.Module | None = None,
    details: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a checkpoint into an existing folder, with `facts` in its manifest and `Evaluation.details`."""
    folder = Path(folder)
    (folder / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
    safetensors.torch.save_file(_on_cpu(model.state_dict()), folder / MODEL_FILE)
    safetensors.torch.save_file(_on_cpu(state), folder / STATE_FILE)
    if average is not None:
        safetensors.torch.save_file(_on_cpu(average.state_dict()), folder / EMA_FILE)
    if details:
        safetensors.numpy.save_file(dict(details), folder / DETAILS_FILE)
    # Last, over everything in the folder: without it there is no checkpoint.
    write_manifest(folder, {"kind": "checkpoint", **facts})


def adopt_checkpoint(source: str | Path, folder: Path, config: TrainConfig) -> None:
    """Makes a new folder with the contents of an intact checkpoint and the config of a run that goes on from there."""
    manifest = read_manifest(source, kind="checkpoint")
    with written_aside(folder) as aside:
        for name in cast(dict[str, Any], manifest["files"]):
            if name != CONFIG_FILE:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                # Linked, as weights are large and nobody changes a file of a checkpoint in place.
                try:
                    os.link(Path(source) / name, aside / name)
                except OSError:  # another disk, or one without links
                    shutil.copyfile(Path(source) / name, aside / name)
        (aside / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
        write_manifest(aside, {key: value for key, value in manifest.items() if key not in ("format_version", "files")})


class Checkpoint(NamedTuple):
    """A loaded checkpoint; the model is in eval mode, on the CPU."""

    model: Model
    config: TrainConfig
    manifest: dict[str, object]


def load_checkpoint(folder: str | Path, *, ema: bool | None = None) -> Checkpoint:
    """Returns a checkpoint whose files are intact.

    Args:
        ema: Whether to take the moving average of the weights; None takes what the run was validated with.

    Raises:
        CheckpointError: the folder is no intact checkpoint, has no moving average, or weights that are not finite or
            not those of the model in its config.
    """
    path, config, manifest = _find_weights(folder, ema)
    sizes, num_classes = config.data.feature_sizes, config.data.num_classes
    model = build_model_for_weights(config.model, feature_sizes=sizes, num_classes=num_classes)
    weights = read_weights(path, model.state_dict())
    # Cloned, so that the model keeps no file mapped.
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
    return Checkpoint(model.eval(), config, manifest)


def load_model(folder: str | Path, *, ema: bool | None = None) -> tuple[Model, TrainConfig]:
    """Returns (model in eval mode on the CPU, its config); arguments and errors as in `load_checkpoint`."""
    return load_checkpoint(folder, ema=ema)[:2]


def weights_path(folder: str | Path, *, ema: bool | None = None) -> Path:
    """Returns the file with the weights of an intact checkpoint; arguments and errors as in `load_checkpoint`."""
    return _find_weights(folder, ema)[0]


def _find_weights(folder: str | Path, ema: bool | None) -> tuple[Path, TrainConfig, dict[str, object]]:
    manifest = read_manifest(folder, kind="checkpoint")
    config = load_config(folder)
    has_average = (Path(folder) / EMA_FILE).is_file()
    if ema and not has_average:
        raise CheckpointError(f"{folder}: has no moving average of its weights (ema.* was not set when it was trained)")
    # What validation measured is what others get.
    is_average = ema if ema is not None else has_average and config.ema.evaluate
    return Path(folder) / (EMA_FILE if is_average else MODEL_FILE), config, manifest


def initialize(model: torch.nn.Module, folder: str | Path, *, ema: bool | None = None) -> list[str]:
    """Copies weights of a checkpoint into `model` where name and shape fit; returns the names of its other weights.

    CheckpointError where the folder is no intact checkpoint, nothing of it fits, or what fits is not finite.
    """
    path = weights_path(folder, ema=ema)
    found = read_tensors(path)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    fitting = {name: tensor for name, tensor in found.items() if tensor.shape == shapes.get(name)}
    if not fitting:
        raise CheckpointError(f"{folder}: none of its {len(found)} weights fits the model by name and shape")
    check_finite(fitting, where=str(path))
    model.load_state_dict(fitting, strict=False)
    return sorted(shapes.keys() - fitting.keys())


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copies a safetensors file into `model`; errors as in `read_weights`."""
    model.load_state_dict(read_weights(path, model.state_dict()))


def read_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a safetensors file's tensors, which are mapped from it.

    CheckpointError where names, shapes or types are not those of `expected`, on any device, `meta` too, or a tensor
    holds NaN or infinity.
    """
    # From the head alone: a file of other weights is refused before any of them is read.
    found = {entry.name: entry for entry in read_tensor_entries(path)}
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is unexpected" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        entry, shape, dtype = found[name], list(expected[name].shape), DTYPES.get(expected[name].dtype)
        if entry.shape != shape:
            wrong.append(f"{name} is {entry.shape}, expected {shape}")
        elif entry.dtype != dtype:
            wrong.append(f"{name} is {entry.dtype}, expected {dtype}")
    check_fit(wrong, where=str(path))
    weights = read_tensors(path)
    check_finite(weights, where=str(path))
    return weights


def check_fit(wrong: Sequence[str], *, where: str) -> None:
    """Raises CheckpointError with the first faults, if there are any."""
    if wrong:
        more = f"; and {len(wrong) - _MOST_FAULTS} more" if len(wrong) > _MOST_FAULTS else ""
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(sorted(wrong)[:_MOST_FAULTS])}{more}")


def check_finite(tensors: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Raises CheckpointError where a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise CheckpointError(f"{where}: {name}: expected finite weights, found NaN or infinity")


def is_finite(tensor: torch.Tensor) -> bool:
    """Returns whether a tensor holds neither NaN nor infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # The extremes suffice, as NaN is both of them; torch.isfinite(tensor).all() takes fifty times as long.
    return all(math.isfinite(value) for value in tensor.aminmax())


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file, which are mapped from it; CheckpointError for any other file."""
    try:
        check_regular(path)
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None


def load_details(folder: str | Path) -> dict[str, np.ndarray]:
    """Returns the `Evaluation.details` of a checkpoint; empty where it was not validated."""
    path = Path(folder) / DETAILS_FILE
    if not path.exists():
        return {}
    return {name: tensor.numpy() for name, tensor in read_tensors(path).items()}


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Cloned: safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
