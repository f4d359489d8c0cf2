"""Models of runs, and versions of registered models. Beside `tracking` the only module that talks to a store.

Lives here: folders that are models already. Does not live here: making one of a bundle (`inference.pyfunc`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus

from yt8m_ray.tracking import Tracker, open_client, patience, told


def log_model(tracker: Tracker, folder: Path, *, name: str, tags: Mapping[str, str]) -> str:
    """Makes a folder that MLflow can load the model of a run; returns its id, as in `models:/ID`.

    Args:
        tracker: The run.
        folder: What is copied; it has a file MLmodel.
        name: Shown in the user interface.
        tags: Of the model.

    Raises:
        TrackingError: MLflow does not take it.
    """
    with told(tracker.uri), patience():
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
    with told(uri):
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
    """Makes a model of a run the newest version of a registered one, unless it is a version already; returns which.

    Args:
        uri: Tracking server or SQLite store.
        model_id: The model, from `log_model`.
        name: The registered model, made if it is missing.
        alias: What points to this version from now on.
        tags: Of the version.

    Raises:
        ConfigError: MLflow has no store of that kind.
        TrackingError: it does not do it.
    """
    with told(uri):
        client = open_client(uri)
        model = client.get_logged_model(model_id)
        place = model.artifact_location  # not models:/ID, which MLflow would look for in its global store
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.source == place:
                client.set_registered_model_alias(name, alias, version.version)
                return str(version.version)
        return _new_version(client, place, model.source_run_id, model_id, name=name, alias=alias, tags=tags or {})


def register_folder(
    uri: str, run_id: str, folder: Path, *, name: str, alias: str, tags: Mapping[str, str] | None = None
) -> str:
    """Makes any folder, copied into a run's artifacts, the newest version of a registered model; returns that version.

    Args:
        uri: Tracking server or SQLite store.
        run_id: The run that it comes from.
        folder: What is registered.
        name: The model, made if it is missing.
        alias: What points to this version from now on.
        tags: Of the version.

    Raises:
        ConfigError: MLflow has no store of that kind.
        TrackingError: it does not do it.
    """
    place = f"registered/{uuid.uuid4().hex[:12]}"  # each version has its own
    Tracker(uri, run_id).log_artifacts(folder, artifact_path=place)
    with told(uri):
        client = open_client(uri)
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        return _new_version(client, source, run_id, None, name=name, alias=alias, tags=tags or {})


def _new_version(
    client: MlflowClient,
    source: str,
    run_id: str | None,
    model_id: str | None,
    *,
    name: str,
    alias: str,
    tags: Mapping[str, str],
) -> str:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, source, run_id, tags=dict(tags), model_id=model_id).version
    client.set_registered_model_alias(name, alias, version)
    return str(version)
