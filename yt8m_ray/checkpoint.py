"""A checkpoint is a folder: config.yaml, model.safetensors, state.safetensors, manifest.json. Loading executes no code.

`ema.safetensors` has the moving average of the weights where there is one; the folder `teacher`, itself a checkpoint,
the model that was trained beside this one.
Where a validation was made for it, validation.safetensors holds what a report shows of it besides the metrics.

The manifest holds sizes and SHA-256 hashes. A folder whose files do not match it is refused, so that a write that was
cut short is never taken for a checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from yt8m_ray import __version__
from yt8m_ray.config.document import ConfigError, parse_yaml, to_yaml, validate
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.remote import download_folder, is_remote, join_uri, read_file
from yt8m_ray.interop.tensorflow import load_published
from yt8m_ray.interop.variables import read_variables
from yt8m_ray.models import Model, build_model

CONFIG_FILE = "config.yaml"
MODEL_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"
STATE_FILE = "state.safetensors"
DETAILS_FILE = "validation.safetensors"
MANIFEST_FILE = "manifest.json"

CHECKPOINT_PATTERN = "epoch_*_step_*"

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A folder that is no intact checkpoint; the message says which file and why."""


class NoSuchFolderError(CheckpointError, ConfigError):
    """A path where no folder is: an argument to change, where a broken checkpoint is bad data."""


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
        folder: Where to write.
        config: The run, with every default.
        model: Its weights and statistics are saved on the CPU.
        state: What training needs to continue, by name.
        facts: What else the manifest keeps: `metrics` measured at this point, `mlflow_run_id`.
        average: A model whose weights are the moving average.
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


def import_checkpoint(
    config: TrainConfig, variables_path: str | Path, folder: str | Path, *, ema: bool = False
) -> Path:
    """Writes a checkpoint with the weights of a published TensorFlow system, and returns its folder.

    Args:
        config: Whose model they are for; what else it says is what the checkpoint is evaluated and served with.
        variables_path: An .npz file, or the prefix of a TensorFlow checkpoint; see `read_variables`.
        folder: A folder that does not exist yet, or is empty; it is there whole or not at all.
        ema: Take the moving averages where there are some.

    Raises:
        ConfigError: the folder is taken or cannot be written, or there are no such variables.
        ValueError: the variables cannot be read, or do not fit the model; what is wrong is listed.
    """
    folder = Path(folder)
    check_new(folder)
    try:
        variables = read_variables(variables_path)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    load_published(model, variables, ema=ema)
    if getattr(config.model, "attend_to_padding", None) is False:
        raise ConfigError("model.attend_to_padding: published weights need true, found false")
    with written_aside(folder) as aside:
        facts = {"imported_from": str(variables_path), "ema": ema}
        save_checkpoint(aside, config=config, model=model, state={}, facts=facts)
    return folder


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


def check_new(folder: Path) -> None:
    """Checks that a command may write `folder`: ConfigError where something is there already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output: {folder}: expected a folder that does not exist yet, or is empty")


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Gives an empty folder that becomes `folder` when the `with` block ends; after an error nothing stays."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside_folder = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-")
    except OSError as error:
        raise ConfigError(f"--output: {folder}: cannot be written: {error}") from None
    with aside_folder as aside:
        written = Path(aside) / folder.name
        written.mkdir()
        yield written
        written.replace(folder)


def write_manifest(folder: Path, facts: Mapping[str, object]) -> None:
    """Writes manifest.json with `facts` and the size and hash of every file of the folder."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format_version": FORMAT_VERSION, "written_by": f"yt8m_ray {__version__}", **facts, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: str | Path, *, kind: str) -> dict[str, object]:
    """Returns the manifest of a folder after checking every file against it.

    Raises:
        CheckpointError: no manifest, another kind or version, or a file that is missing, cut short or altered.
        NoSuchFolderError: there is no such folder.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise NoSuchFolderError(f"{folder}: no {kind}: there is no such folder")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {kind}: {MANIFEST_FILE} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable manifest: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{path}: unreadable manifest: expected a mapping with the section files")
    if manifest.get("kind") != kind:
        raise CheckpointError(f"{folder}: expected a {kind}, found a {manifest.get('kind', 'folder of unknown kind')}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: format version {manifest.get('format_version')} found, this program reads {FORMAT_VERSION}"
        )
    needed = {CONFIG_FILE, MODEL_FILE, STATE_FILE} if kind == "checkpoint" else set()
    if needed - manifest["files"].keys():
        raise CheckpointError(f"{path}: expected the files {sorted(needed)}, found {sorted(manifest['files'])}")
    for name, facts in manifest["files"].items():
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= facts.keys():
            raise CheckpointError(f"{path}: files: {name!r}: expected its bytes and sha256, found {facts!r}")
        _check_file(folder, name, num_bytes=facts["bytes"], sha256=facts["sha256"])
    checked: dict[str, object] = manifest
    return checked


def local_folder(path: str | Path) -> Path:
    """Returns the absolute folder of a checkpoint or bundle; one in an object store is copied to this machine, once.

    Copies lie under $YT8M_CACHE, or else ~/.cache/yt8m_ray, by the contents of their manifest.

    Raises:
        NoSuchFolderError: the store has none there.
        CheckpointError: what it has is not intact.
        OSError: the store cannot be read.
    """
    uri = str(path)
    if not is_remote(uri):
        return Path(path).absolute()
    content = read_file(join_uri(uri, MANIFEST_FILE))
    if content is None:
        raise NoSuchFolderError(f"{uri}: no checkpoint: {MANIFEST_FILE} is missing")
    parent = cache_folder() / "checkpoints" / hashlib.sha256(content).hexdigest()[:16]
    folder = parent / PurePosixPath(join_uri(uri).partition("?")[0]).name
    if not folder.exists():
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".aside-") as aside:
            written = Path(aside) / folder.name
            written.mkdir()
            download_folder(uri, written)
            read_manifest(written, kind=json.loads(content).get("kind", "checkpoint"))
            with contextlib.suppress(OSError):  # another process was faster
                written.rename(folder)
    return folder


def cache_folder() -> Path:
    """Returns where copies of what lies in object stores are kept."""
    return Path(os.environ.get("YT8M_CACHE", "~/.cache/yt8m_ray")).expanduser().absolute()


def load_config(folder: str | Path) -> TrainConfig:
    """Returns the config that a checkpoint was trained with."""
    path = Path(folder) / CONFIG_FILE
    if not path.parent.is_dir():
        raise NoSuchFolderError(f"{folder}: no checkpoint: there is no such folder")
    if not path.is_file():
        raise CheckpointError(f"{folder}: no checkpoint: {CONFIG_FILE} is missing")
    return validate(parse_yaml(path.read_text(encoding="utf-8"), where=str(path)), TrainConfig, where=str(path))


def load_model(folder: str | Path, *, ema: bool | None = None) -> tuple[Model, TrainConfig]:
    """Returns (model in eval mode on the CPU, its config) of a checkpoint whose files are intact.

    Args:
        folder: The checkpoint.
        ema: Whether to take the moving average of the weights; None takes what the run was validated with.

    Raises:
        CheckpointError: the folder is no intact checkpoint, or has no moving average.
    """
    path, config = weights_path(folder, ema=ema)
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    load_weights(model, path)
    return model.eval(), config


def weights_path(folder: str | Path, *, ema: bool | None = None) -> tuple[Path, TrainConfig]:
    """Returns (file with the weights of an intact checkpoint, its config); arguments and errors as in `load_model`."""
    read_manifest(folder, kind="checkpoint")
    config = load_config(folder)
    has_average = (Path(folder) / EMA_FILE).is_file()
    if ema and not has_average:
        raise CheckpointError(f"{folder}: has no moving average of its weights (ema.* was not set when it was trained)")
    is_average = ema if ema is not None else has_average and config.ema.evaluate
    return Path(folder) / (EMA_FILE if is_average else MODEL_FILE), config


def initialize(model: torch.nn.Module, folder: str | Path, *, ema: bool | None = None) -> list[str]:
    """Copies what fits of a checkpoint's weights into `model`, and returns the names of the weights that start anew.

    Args:
        model: Any model; a weight fits where name and shape are the same.
        folder: The checkpoint.
        ema: As in `load_model`.

    Raises:
        CheckpointError: the folder is no intact checkpoint, or nothing of it fits.
    """
    found, expected = read_tensors(weights_path(folder, ema=ema)[0]), model.state_dict()
    fitting = {
        name: tensor for name, tensor in found.items() if name in expected and tensor.shape == expected[name].shape
    }
    if not fitting:
        raise CheckpointError(f"{folder}: none of its {len(found)} weights fits the model by name and shape")
    model.load_state_dict(fitting, strict=False)
    return sorted(expected.keys() - fitting.keys())


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copies a safetensors file into `model`; CheckpointError lists names and shapes that do not fit."""
    model.load_state_dict(read_weights(path, model.state_dict()))


def read_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a safetensors file's tensors; CheckpointError lists names and shapes that are not those of `expected`."""
    found = read_tensors(path)
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is unexpected" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} is {list(found[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{path}: weights do not fit the model: {'; '.join(sorted(wrong))}")
    return found


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file; anything else (a pickle, say) is refused."""
    try:
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


def _check_file(folder: Path, name: str, *, num_bytes: object, sha256: object) -> None:
    file = folder / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CheckpointError(f"{folder / MANIFEST_FILE}: files: {name!r} lies outside the folder")
    if not file.is_file():
        raise CheckpointError(f"{file}: listed in the manifest, but missing")
    if file.stat().st_size != num_bytes:
        raise CheckpointError(f"{file}: {num_bytes} bytes expected, {file.stat().st_size} found")
    if _sha256(file) != sha256:
        raise CheckpointError(f"{file}: the contents do not match the hash in the manifest")


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Cloned: safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
