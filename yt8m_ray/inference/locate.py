"""One way to name a model, for every verb, every config and the service."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from yt8m_ray.artifacts.archive import is_archive, open_folder
from yt8m_ray.artifacts.checkpoint_folders import CHECKPOINT_PATTERN, best_checkpoint, score_of
from yt8m_ray.artifacts.folder_manifest import (
    BUNDLE_FILE,
    CONFIG_FILE,
    MANIFEST_FILE,
    CheckpointError,
    NoSuchFolderError,
    local_folder,
)
from yt8m_ray.data.storage.folders import is_remote, join_uri, list_folders, read_file
from yt8m_ray.errors import ConfigError
from yt8m_ray.json_document import parse_json

MLFLOW_SCHEMES = ("models:/", "runs:/")

# Of a search's folder: the winner, and its checkpoint there.
_BEST, _CHECKPOINT = "best", "checkpoint"
_MOST_NAMES = 8


def is_in_mlflow(name: str | Path) -> bool:
    """Returns whether a name is a URI of MLflow, `models:/...` or `runs:/...`."""
    return str(name).startswith(MLFLOW_SCHEMES)


def locate_model(name: str | Path) -> Path:
    """Returns the absolute folder, on this machine, of the checkpoint or the bundle that a name means.

    A name is the folder of a run (its best checkpoint), of a search (its winner), of a checkpoint or of a bundle, a
    bundle's tar; any of these in an object store; `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID[/PATH]` in
    MLflow. What is not on this machine is copied below `cache_folder()` once.

    Raises:
        NoSuchFolderError: there is no such thing; the message says what there is.
        CheckpointError: a copy or a tar has not exactly the files of its manifest.
        ConfigError, TrackingError: MLflow has no such model or run, or cannot be asked.
        OSError: the store or the tar cannot be read, or the cache cannot be written.
    """
    text = str(name)
    if is_in_mlflow(text):
        # Late: MLflow takes a second to import.
        from yt8m_ray.tracking.models import fetch_model

        return _in_folder(Path(fetch_model(text)), text)
    if is_archive(text):
        if not is_remote(text) and not Path(text).is_file():
            raise NoSuchFolderError(f"{text}: there is no such file{_beside(Path(text))}")
        return open_folder(text)
    return _in_store(text) if is_remote(text) else _in_folder(Path(text).absolute(), text)


def locate_checkpoint(name: str | Path) -> Path:
    """Returns the folder of a checkpoint as `locate_model` does; ConfigError where the name means a bundle."""
    folder = locate_model(name)
    if is_bundle(folder):
        raise ConfigError(f"{name}: expected a checkpoint, found a bundle, whose weights are quantized already")
    return folder


def is_bundle(folder: Path) -> bool:
    """Returns whether a folder from `locate_model` is a bundle's."""
    return (folder / BUNDLE_FILE).is_file()


def _in_folder(folder: Path, name: str) -> Path:
    if folder.is_file():
        raise NoSuchFolderError(f"{name}: a file; a model is a folder, or a bundle's .tar")
    if not folder.is_dir():
        raise NoSuchFolderError(f"{name}: {_missing(folder)}")
    for inside in (folder / _CHECKPOINT, folder / _BEST / _CHECKPOINT):
        if (inside / MANIFEST_FILE).is_file():
            return inside
    if is_bundle(folder) or (folder / CONFIG_FILE).is_file():
        return folder
    if any(folder.glob(CHECKPOINT_PATTERN)):
        try:
            return best_checkpoint(folder)[0]
        except CheckpointError:
            raise NoSuchFolderError(f"{name}: a run without an intact checkpoint") from None
    if (folder / "run.json").is_file() or (folder / "train.log").is_file():
        raise NoSuchFolderError(f"{name}: a run that has no checkpoint yet")
    models = [path.name for path in folder.iterdir() if _holds_model(path)]
    if models:
        raise NoSuchFolderError(f"{name}: a folder of several models; name one of them: {_listed(models)}")
    raise NoSuchFolderError(
        f"{name}: no run, checkpoint or bundle; the folder holds {_listed(path.name for path in folder.iterdir())}"
    )


def _in_store(uri: str) -> Path:
    if read_file(join_uri(uri, MANIFEST_FILE)) is not None:
        return local_folder(uri)
    names = list_folders(uri, CHECKPOINT_PATTERN, last=MANIFEST_FILE)
    if not names:
        raise NoSuchFolderError(f"{uri}: no run, checkpoint or bundle is there: no {MANIFEST_FILE}")
    scores = {name: _stored_score(join_uri(uri, name, MANIFEST_FILE)) for name in names}
    return local_folder(join_uri(uri, max(names, key=lambda name: (scores[name], name))))


def _stored_score(uri: str) -> float:
    return score_of(parse_json(read_file(uri) or b"{}", where=uri, nan=True).get("metrics", {}))


def _holds_model(path: Path) -> bool:
    is_run = path.is_dir() and any(path.glob(CHECKPOINT_PATTERN))
    return is_run or any((path / name).is_file() for name in (MANIFEST_FILE, f"{_BEST}/{_CHECKPOINT}/{MANIFEST_FILE}"))


def _missing(folder: Path) -> str:
    """Says what is in the place of a folder that is not there."""
    run = folder.parent
    if fnmatch(folder.name, CHECKPOINT_PATTERN) and (there := sorted(run.glob(CHECKPOINT_PATTERN))):
        return f"this checkpoint is gone; the run has {_listed(path.name for path in there)} now; {run} means its best"
    return f"there is no such folder{_beside(folder)}"


def _beside(path: Path) -> str:
    parent = path.absolute().parent
    while not parent.is_dir():
        parent = parent.parent
    return f"; {parent} holds {_listed(each.name for each in parent.iterdir())}"


def _listed(names: Iterable[str]) -> str:
    found = sorted(name for name in names if not name.startswith("."))
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return (", ".join(found[:_MOST_NAMES]) or "nothing") + more
