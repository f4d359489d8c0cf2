"""A checkpoint is a folder: config.yaml, model.safetensors, state.safetensors, manifest.json. Loading executes no code.

`ema.safetensors` has the moving average of the weights where there is one; the folder `teacher`, itself a checkpoint,
the model that was trained beside this one.
Where a validation was made for it, validation.safetensors holds what a report shows of it besides the metrics.

The manifest holds sizes and SHA-256 hashes. A folder whose files do not match it is refused, so that a write that was
cut short is never taken for a checkpoint.
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

from yt8m_ray.artifacts.folder_manifest import (
    CONFIG_FILE,
    MODEL_FILE,
    STATE_FILE,
    CheckpointError,
    NoSuchFolderError,
    read_manifest,
    write_manifest,
    written_aside,
)
from yt8m_ray.artifacts.tensor_file import read_tensor_entries
from yt8m_ray.config.document import read_yaml, to_yaml, validate
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.local_files import check_regular
from yt8m_ray.models import Model, build_model_for_weights

EMA_FILE = "ema.safetensors"
DETAILS_FILE = "validation.safetensors"

CHECKPOINT_PATTERN = "epoch_*_step_*"

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}
"""Types by their names in a safetensors file, as far as models have them."""

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
    """Writes a checkpoint into an existing folder; the manifest, over everything in it, comes last.

    Args:
        config: The run, with every default.
        model: Its weights and statistics are saved on the CPU.
        state: What training needs to continue, by name.
        facts: What else the manifest keeps: `metrics` measured at this point, `mlflow_run_id`.
        details: Of the validation at this point, if there was one: `Evaluation.details`.
    """
    folder = Path(folder)
    (folder / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
    safetensors.torch.save_file(_on_cpu(model.state_dict()), folder / MODEL_FILE)
    safetensors.torch.save_file(_on_cpu(state), folder / STATE_FILE)
    if average is not None:
        safetensors.torch.save_file(_on_cpu(average.state_dict()), folder / EMA_FILE)
    if details:
        safetensors.numpy.save_file(dict(details), folder / DETAILS_FILE)
    write_manifest(folder, {"kind": "checkpoint", **facts})


def adopt_checkpoint(source: str | Path, folder: Path, config: TrainConfig) -> None:
    """Makes a new folder with the contents of a checkpoint, but for its config: that of a run which goes on from there.

    Files are linked where the disk can, else copied. The folder is there whole or not at all.

    Raises:
        CheckpointError: the source is no intact checkpoint.
    """
    manifest = read_manifest(source, kind="checkpoint")
    with written_aside(folder) as aside:
        for name in cast(dict[str, Any], manifest["files"]):
            if name != CONFIG_FILE:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(Path(source) / name, aside / name)
        (aside / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
        write_manifest(aside, {key: value for key, value in manifest.items() if key not in ("format_version", "files")})


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def load_config(folder: str | Path) -> TrainConfig:
    """Returns the config that a checkpoint was trained with."""
    path = Path(folder) / CONFIG_FILE
    if not path.parent.is_dir():
        raise NoSuchFolderError(f"{folder}: no checkpoint: there is no such folder")
    if not path.exists():
        raise CheckpointError(f"{folder}: no checkpoint: {CONFIG_FILE} is missing")
    return validate(read_yaml(path), TrainConfig, where=str(path))


class Checkpoint(NamedTuple):
    """A loaded checkpoint: the model in eval mode on the CPU, its config, and its manifest."""

    model: Model
    config: TrainConfig
    manifest: dict[str, object]


def load_checkpoint(folder: str | Path, *, ema: bool | None = None) -> Checkpoint:
    """Returns a checkpoint whose files are intact; each is hashed once.

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
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)  # maps no file
    return Checkpoint(model.eval(), config, manifest)


def load_model(folder: str | Path, *, ema: bool | None = None) -> tuple[Model, TrainConfig]:
    """Returns (model in eval mode on the CPU, its config); arguments and errors as in `load_checkpoint`."""
    model, config, _ = load_checkpoint(folder, ema=ema)
    return model, config


def weights_path(folder: str | Path, *, ema: bool | None = None) -> tuple[Path, TrainConfig]:
    """Returns (file with the weights, config) of an intact checkpoint; arguments and errors as in `load_checkpoint`."""
    path, config, _ = _find_weights(folder, ema)
    return path, config


def _find_weights(folder: str | Path, ema: bool | None) -> tuple[Path, TrainConfig, dict[str, object]]:
    manifest = read_manifest(folder, kind="checkpoint")
    config = load_config(folder)
    has_average = (Path(folder) / EMA_FILE).is_file()
    if ema and not has_average:
        raise CheckpointError(f"{folder}: has no moving average of its weights (ema.* was not set when it was trained)")
    is_average = ema if ema is not None else has_average and config.ema.evaluate
    return Path(folder) / (EMA_FILE if is_average else MODEL_FILE), config, manifest


def initialize(model: torch.nn.Module, folder: str | Path, *, ema: bool | None = None) -> list[str]:
    """Copies the weights of a checkpoint that fit into `model`, and returns the names of its other weights.

    Args:
        model: Any model; a weight fits where name and shape are the same.

    Raises:
        CheckpointError: the folder is no intact checkpoint, nothing of it fits, or what fits is not finite.
    """
    path, expected = weights_path(folder, ema=ema)[0], model.state_dict()
    found = read_tensors(path)
    fitting = {
        name: tensor for name, tensor in found.items() if name in expected and tensor.shape == expected[name].shape
    }
    if not fitting:
        raise CheckpointError(f"{folder}: none of its {len(found)} weights fits the model by name and shape")
    check_finite(fitting, where=str(path))
    model.load_state_dict(fitting, strict=False)
    return sorted(expected.keys() - fitting.keys())


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copies a safetensors file into `model`; errors as in `read_weights`."""
    model.load_state_dict(read_weights(path, model.state_dict()))


def read_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a safetensors file's tensors, which are mapped from it.

    Args:
        expected: Tensors of the names, shapes and types that it must have, of any device, `meta` too.

    Raises:
        CheckpointError: names, shapes or types are others, which is seen before anything is read; or a tensor holds NaN
            or infinity.
    """
    found = {entry.name: entry for entry in read_tensor_entries(path)}
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is unexpected" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        if found[name].shape != list(expected[name].shape):
            wrong.append(f"{name} is {found[name].shape}, expected {list(expected[name].shape)}")
        elif found[name].dtype != DTYPES.get(expected[name].dtype):
            wrong.append(f"{name} is {found[name].dtype}, expected {DTYPES.get(expected[name].dtype)}")
    check_fit(wrong, where=str(path))
    weights = read_tensors(path)
    check_finite(weights, where=str(path))
    return weights


def check_fit(wrong: Sequence[str], *, where: str) -> None:
    """Raises CheckpointError where there are tensors that are not those of the model; lists the first of them."""
    if wrong:
        more = f"; and {len(wrong) - _MOST_FAULTS} more" if len(wrong) > _MOST_FAULTS else ""
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(sorted(wrong)[:_MOST_FAULTS])}{more}")


def check_finite(tensors: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Raises CheckpointError, with its name, where a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise CheckpointError(f"{where}: {name}: expected finite weights, found NaN or infinity")


def is_finite(tensor: torch.Tensor) -> bool:
    """Returns whether a tensor holds neither NaN nor infinity.

    Its least and largest values say so, as NaN is both; torch.isfinite(tensor).all() takes fifty times as long.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(value) for value in tensor.aminmax())


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file, which are mapped from it; anything else (a pickle, say) is refused."""
    try:
        check_regular(path)
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None


def load_details(folder: str | Path) -> dict[str, np.ndarray]:
    """Returns what `Evaluation.details` gave at a checkpoint; empty where it was not validated."""
    path = Path(folder) / DETAILS_FILE
    if not path.exists():
        return {}
    return {name: tensor.numpy() for name, tensor in read_tensors(path).items()}


def latest_checkpoint(run_path: str | Path) -> Path | None:
    """Returns the intact checkpoint of a run folder that is furthest on, or None; broken ones are passed over."""
    for folder in sorted(Path(run_path).glob(CHECKPOINT_PATTERN), reverse=True):
        try:
            read_manifest(folder, kind="checkpoint")
        except CheckpointError:
            continue
        return folder
    return None


def checkpoint_name(*, epoch: int, step: int) -> str:
    """Returns the folder name of a checkpoint after `epoch` whole epochs and `step` steps; names sort by progress."""
    return f"epoch_{epoch:04d}_step_{step:09d}"


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Cloned: safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
