"""`serve.app:build`, the import path of serve/config.yaml."""

# Without `from __future__ import annotations`: Ray Serve evaluates the annotation of `args`, and would find a string.
import os
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from serve.deployments import PredictionService, ReleaseManager
from serve.settings import MODEL_VARIABLE, ServeArgs
from yt8m_ray.data.storage.folders import is_remote
from yt8m_ray.inference.locate import is_in_mlflow

_FILES = ("tokens_file", "admin_tokens_file", "access_log", "examples")


def build(args: ServeArgs) -> Application:
    """Returns the application, for a config file of Ray Serve; errors as in `application`."""
    return application(args, {})


def application(args: ServeArgs, options: Mapping[str, Mapping[str, Any]]) -> Application:
    """Returns the application; ValueError if no model is named.

    `options` are those of Ray Serve's deployments by name, as a config file has them.
    """
    model = args.model or os.environ.get(MODEL_VARIABLE)
    if not model:
        raise ValueError(
            f"model: name the folder or tar of a bundle in args.model or in the environment variable {MODEL_VARIABLE}"
        )
    # A replica has another working directory.
    place = model if is_in_mlflow(model) else _absolute(model)
    files = {name: _absolute(path) for name in _FILES if (path := getattr(args, name)) is not None}
    args = args.model_copy(update={"model": place, **files})
    manager = serve.deployment(name="ReleaseManager")(ReleaseManager).options(**options.get("ReleaseManager", {}))
    service = serve.deployment(name="PredictionService")(serve.ingress()(PredictionService))
    releases = manager.bind(place, args.alias_interval_s)
    return service.options(**options.get("PredictionService", {})).bind(args, releases)


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)
