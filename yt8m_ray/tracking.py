"""Runs, parameters by dotted key, metrics and artifacts. The only module that imports mlflow."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from yt8m_ray.config.document import ConfigError

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_LOCK_TIMEOUT_S = 120.0
_MAX_PARAM_LENGTH = 6000
_PARAMS_A_CALL = 100


def default_uri(output: str | Path) -> str:
    """Returns the SQLite store under an output folder, as an absolute address: a job's working directory vanishes."""
    return f"sqlite:///{Path(output).absolute() / 'mlflow.db'}"


class Tracker:
    """One MLflow run.

    Args:
        uri: Tracking server or SQLite store.
        run_id: The run.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client = _open(uri)

    @classmethod
    def start(
        cls, uri: str, *, experiment: str, run_name: str, params: Mapping[str, object], artifact_path: Path
    ) -> Tracker:
        """Returns a new run with `params` logged.

        Args:
            uri: Tracking server or SQLite store; a store is created here, under a lock, so that nobody races for it.
            experiment: Created if missing.
            run_name: Shown in the user interface.
            params: By dotted key.
            artifact_path: Folder for artifacts of a store without a server.

        Raises:
            ConfigError: MLflow has no store of that kind.
            ConnectionError: the store or server does not answer as it should.
        """
        location = None if uri.startswith("http") else artifact_path.absolute().as_uri()
        try:
            with _creation_lock(uri):
                client = _open(uri)
                found = client.get_experiment_by_name(experiment)
                experiment_id = found.experiment_id if found else client.create_experiment(experiment, location)
            tracker = cls(uri, client.create_run(experiment_id, run_name=run_name).info.run_id)
            entries = [Param(key, str(value)[:_MAX_PARAM_LENGTH]) for key, value in params.items()]
            for start in range(0, len(entries), _PARAMS_A_CALL):
                client.log_batch(tracker.run_id, params=entries[start : start + _PARAMS_A_CALL])
        except MlflowException as error:
            raise ConnectionError(f"tracking.uri: {uri}: {_first_line(error)}") from None
        return tracker

    @classmethod
    def resume(cls, uri: str, run_id: str) -> Tracker | None:
        """Returns an existing run set back to running, or None where the store does not have it."""
        tracker = cls(uri, run_id)
        try:
            tracker._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            logger.warning("MLflow run %s cannot be continued, a new one is made: %s", run_id, error)
            return None
        return tracker

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Logs finite values at `step`."""
        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step) for key, value in metrics.items() if math.isfinite(value)]
        self._client.log_batch(self.run_id, metrics=entries)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)

    def log_artifacts(self, path: str | Path, *, artifact_path: str | None = None) -> None:
        """Copies a file or a folder into the run's artifacts."""
        if Path(path).is_dir():
            self._client.log_artifacts(self.run_id, str(path), artifact_path)
        else:
            self._client.log_artifact(self.run_id, str(path), artifact_path)

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Marks the run as ended."""
        self._client.set_terminated(self.run_id, status)


def _creation_lock(uri: str) -> AbstractContextManager[object]:
    """Returns a lock on an SQLite store's file; two first starts at once would both create its tables."""
    if not uri.startswith(_SQLITE):
        return nullcontext()
    path = Path(uri.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S)


def _open(uri: str) -> MlflowClient:
    try:
        return MlflowClient(uri)
    except MlflowException as error:
        raise ConfigError(
            f"tracking.uri: expected an address such as http://127.0.0.1:5000 or a store such as "
            f"sqlite:////absolute/path/mlflow.db, found {uri!r}: {_first_line(error)}"
        ) from None


def _first_line(error: MlflowException) -> str:
    return str(error).strip().splitlines()[0]
