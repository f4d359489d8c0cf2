"""Models of MLflow's runs, and versions of registered models."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient, get_tracking_uri
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)

from yt8m_ray.artifacts.folder_manifest import MANIFEST_FILE, cache_folder, folder_aside
from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.runs import Tracker, longer_timeout, open_client, tracking_errors

# Begins the address of a registered model.
MODEL_SCHEME = "models:/"
RUN_SCHEME = "runs:/"
# Of a training run: the artifacts of its best checkpoint. Of a search, those of its winner's.
CHECKPOINT_PATH = "checkpoint"
WINNER_PATH = "best/checkpoint"

_NOT_IN_NAMES = "@'?#"
_LONGEST_NAME = 256


def check_names(name: str, alias: str) -> None:
    """Checks the name of a registered model and an alias, by MLflow's own rules, before anything is made.

    Raises:
        ConfigError: MLflow would refuse one of them, or the name cannot stand in `models:/NAME@ALIAS` or in a query.
    """
    # Private, in a version that is pinned: the client asks a store, which checks them when the model is copied already.
    try:
        _validate_model_name(name)
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
    except MlflowException as error:
        raise ConfigError(f"registered model {name!r}, alias {alias!r}: {error.message}") from None
    if any(character in name for character in _NOT_IN_NAMES) or not name.isprintable() or name != name.strip():
        without = " ".join(_NOT_IN_NAMES)
        raise ConfigError(f"registered model {name[:80]!r}: expected a name without {without} and what cannot be seen")
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"registered model {name[:80]!r}...: expected at most {_LONGEST_NAME} characters")


def log_model(tracker: Tracker, folder: Path, *, name: str, tags: Mapping[str, str]) -> str:
    """Makes a copy of a folder with a file MLmodel the model of a run; returns its id, as in `models:/ID`.

    Raises:
        TrackingError: MLflow refuses it, or does not answer.
    """
    with tracking_errors(tracker.uri), longer_timeout():
        client = open_client(tracker.uri)
        experiment_id = client.get_run(tracker.run_id).info.experiment_id
        model = client.create_logged_model(experiment_id, name, source_run_id=tracker.run_id, tags=dict(tags))
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        client.log_outputs(tracker.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def find_model(uri: str, *, experiment: str, tags: Mapping[str, str]) -> str | None:
    """Returns the id of the newest whole model of an experiment that has all these tags, None where none has.

    Raises:
        ConfigError: MLflow has no store of that kind.
        TrackingError: it cannot be asked now.
    """
    with tracking_errors(uri):
        client = open_client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return None
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        newest_first = [{"field_name": "creation_timestamp", "ascending": False}]
        for model in client.search_logged_models([found.experiment_id], query, order_by=newest_first):
            if model.status == LoggedModelStatus.READY:
                return str(model.model_id)
    return None


def register_model(uri: str, model_id: str, *, name: str, alias: str, tags: Mapping[str, str] | None = None) -> str:
    """Makes a model of `log_model` the newest version of a registered one, unless it is one already; returns which.

    A missing registered model is made, and `alias` points to the version.

    Raises:
        ConfigError: MLflow has no store of that kind.
        TrackingError: MLflow refuses it, or does not answer.
    """
    with tracking_errors(uri):
        client = open_client(uri)
        model = client.get_logged_model(model_id)
        place = model.artifact_location  # not models:/ID, which MLflow would look for in its global store
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.source == place:
                client.set_registered_model_alias(name, alias, version.version)
                return str(version.version)
        return _new_version(client, place, model.source_run_id, model_id, name=name, alias=alias, tags=tags)


def register_folder(
    uri: str, run_id: str, folder: Path, *, name: str, alias: str, tags: Mapping[str, str] | None = None
) -> str:
    """Makes any folder, copied into a run's artifacts, the newest version of a registered model; returns that version.

    Arguments and errors as in `register_model`.
    """
    place = f"registered/{uuid.uuid4().hex[:12]}"  # each version has its own
    Tracker(uri, run_id).log_artifacts(folder, artifact_path=place)
    with tracking_errors(uri):
        client = open_client(uri)
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        return _new_version(client, source, run_id, None, name=name, alias=alias, tags=tags)


def _new_version(
    client: MlflowClient,
    source: str,
    run_id: str | None,
    model_id: str | None,
    *,
    name: str,
    alias: str,
    tags: Mapping[str, str] | None,
) -> str:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, source, run_id, tags=dict(tags or {}), model_id=model_id).version
    client.set_registered_model_alias(name, alias, version)
    return str(version)


def resolve_model(uri: str) -> str:
    """Returns `models:/NAME/VERSION` for `models:/NAME@ALIAS` or NAME/VERSION; any other place as it is.

    Raises:
        ConfigError: MLflow has no store of the kind that MLFLOW_TRACKING_URI names, or the form is another.
        TrackingError: it cannot be asked, or has no such model or alias.
    """
    if not uri.startswith(MODEL_SCHEME):
        return uri
    name, alias, version = _parse_uri(uri)
    if alias:
        tracking_uri = get_tracking_uri()
        with tracking_errors(tracking_uri):
            version = open_client(tracking_uri).get_model_version_by_alias(name, alias).version
    return f"{MODEL_SCHEME}{name}/{version}"


def fetch_model(uri: str) -> str:
    """Returns the folder of the bundle or checkpoint that `models:/...` or `runs:/ID[/PATH]` names.

    It is copied to this machine once, below `cache_folder()`: replicas that load it share the copy. The store asked is
    that of MLFLOW_TRACKING_URI.

    Raises:
        ConfigError, TrackingError: as `resolve_model`; a run without a model.
        ValueError: the model is not one of `yt8m register`.
    """
    tracking_uri = get_tracking_uri()
    if uri.startswith(RUN_SCHEME):
        with tracking_errors(tracking_uri):
            source, key = _run_artifacts(tracking_uri, uri)
    else:
        name, _, version = _parse_uri(resolve_model(uri))
        with tracking_errors(tracking_uri):
            found = open_client(tracking_uri).get_model_version(name, version)
        # A name that was deleted and registered again has the same version numbers.
        source, key = f"{MODEL_SCHEME}{name}/{version}", f"{found.source} {found.creation_timestamp}"
    folder = _copy(tracking_uri, source, key)
    # A pyfunc model holds a bundle; a search registers a checkpoint as it is.
    bundles = [path for path in folder.glob("artifacts/*") if path.is_dir()]
    if len(bundles) == 1:
        return str(bundles[0])
    if bundles or not (folder / MANIFEST_FILE).is_file():
        raise ValueError(f"{uri}: expected a model of yt8m register, with one bundle, found {len(bundles)}")
    return str(folder)


def _run_artifacts(tracking_uri: str, uri: str) -> tuple[str, str]:
    """Returns what `download_artifacts` takes for a run's model, and what tells it from others."""
    run_id, _, path = uri.removeprefix(RUN_SCHEME).partition("/")
    client = open_client(tracking_uri)
    run = client.get_run(run_id)
    if not path:
        there = {each.path for each in client.list_artifacts(run_id)}
        path = next((one for one in (CHECKPOINT_PATH, WINNER_PATH) if one.partition("/")[0] in there), "")
    if path:
        return f"{RUN_SCHEME}{run_id}/{path}", f"{run.info.artifact_uri} {run.info.end_time}"
    outputs = [] if run.outputs is None else run.outputs.model_outputs
    if not outputs:
        found = ", ".join(each.path for each in client.list_artifacts(run_id)) or "none"
        raise ConfigError(f"{uri}: the run has no checkpoint and no bundle in {tracking_uri}; its artifacts: {found}")
    return f"{MODEL_SCHEME}{outputs[-1].model_id}", ""


def registered_name(uri: str) -> str | None:
    """Returns NAME of `models:/NAME@ALIAS` or `models:/NAME/VERSION`, None of any other place."""
    return _parse_uri(uri)[0] if uri.startswith(MODEL_SCHEME) else None


def _parse_uri(uri: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if not found:
        raise ConfigError(f"model: expected models:/NAME@ALIAS or models:/NAME/VERSION, found {uri!r}")
    name, alias, version = found.groups(default="")  # one of the last two is empty
    return name, alias, version


def _copy(tracking_uri: str, uri: str, key: str) -> Path:
    digest = hashlib.sha256(f"{tracking_uri} {uri} {key}".encode()).hexdigest()
    folder = cache_folder() / "mlflow" / digest[:16] / "model"
    with tracking_errors(tracking_uri):
        if not folder.is_dir():
            with folder_aside(folder) as aside:
                written = download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri, dst_path=str(aside))
                with contextlib.suppress(OSError):  # another process was faster
                    Path(written).rename(folder)
    return folder
