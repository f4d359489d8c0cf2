"""Runs of MLflow: parameters by dotted key, metrics and artifacts."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from yt8m_ray.errors import ConfigError, YT8MError
from yt8m_ray.local_cluster import configure_environment
from yt8m_ray.tracking.datasets import ShardSet

logger = logging.getLogger(__name__)

# MLflow reads these at each call; `open_client` sets them before the first.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # copies within one disk
    # By MLflow's own settings a call to a server that is gone takes four minutes to fail.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}

Status = Literal["FINISHED", "FAILED", "KILLED"]

_SQLITE = "sqlite:///"
_LOCK_TIMEOUT_S = 120.0
# At most what MLflow takes: characters of a value, entries of a call.
_MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 5000
_PARAMS_A_CALL = 100
_METRICS_A_CALL = 1000
_ARTIFACT_TIMEOUT_S = 120
# The page hides tags with MLflow's prefix: nobody can make use of a hash.
_KEY_TAG = "mlflow.yt8m_ray.key"
# Without it the page shows runs as evaluations of GenAI.
_EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}

# MLflow's page shows a run with this tag below the run that it names.
PARENT_TAG = "mlflow.parentRunId"
_TRIED_AGAIN = 429  # HTTP's "too many requests"
_SQLALCHEMY_ADVICE = "(raised as a result of Query-invoked autoflush"
_REASON = re.compile(r"""Caused by \w+\(['"](?:\w+\(.*?\): )?([^'"]*)['"]""")


class TrackingError(YT8MError, ConnectionError):
    """MLflow refused a call or did not answer; the message names its address."""

    def __init__(self, message: str, *, is_temporary: bool) -> None:
        super().__init__(message)
        # The same call may succeed later: no answer, a failing server, a locked store.
        self.is_temporary = is_temporary


def default_uri(output: str | Path) -> str:
    """Returns the SQLite store under an output folder, as an absolute address: a job's working directory vanishes."""
    return f"sqlite:///{Path(output).absolute() / 'mlflow.db'}"


class Tracker:
    """One MLflow run, on a tracking server or in an SQLite store."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client = open_client(uri)

    @classmethod
    def start(
        cls,
        uri: str,
        *,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        artifact_path: Path,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
        datasets: Sequence[ShardSet] = (),
    ) -> Tracker:
        """Returns a new run with `params`, by dotted key; a missing SQLite store or experiment is created.

        A second call with the same `key`, a text that no other run has, continues the run that the first made.
        A store without a server keeps artifacts in `artifact_path`.

        Raises:
            ConfigError: MLflow has no store of that kind.
            TrackingError: the store or server does not answer as it should.
        """
        location = None if uri.startswith("http") else artifact_path.absolute().as_uri()
        with tracking_errors(uri):
            with _creation_lock(uri):
                client = open_client(uri)
                experiment_id = _experiment(client, experiment, location)
            all_tags = {name: value[:MAX_TAG_LENGTH] for name, value in (tags or {}).items()}
            found_runs: list[Run] = []
            if key is not None:  # the answer to an earlier call may not have arrived
                all_tags[_KEY_TAG] = key
                found_runs = client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1)
            run = found_runs[0] if found_runs else client.create_run(experiment_id, run_name=run_name, tags=all_tags)
            tracker = cls(uri, run.info.run_id)
            entries = [Param(key, str(value)[:_MAX_PARAM_LENGTH]) for key, value in params.items()]
            for start in range(0, len(entries), _PARAMS_A_CALL):
                client.log_batch(tracker.run_id, params=entries[start : start + _PARAMS_A_CALL])
            if datasets:
                client.log_inputs(tracker.run_id, [shards.as_input() for shards in datasets])
        return tracker

    @classmethod
    def resume(cls, uri: str, run_id: str) -> Tracker | None:
        """Returns an existing run set back to running, or None where the store does not have it.

        Raises:
            ConfigError: MLflow has no store of that kind.
            TrackingError: it cannot be asked now.
        """
        try:
            with tracking_errors(uri), _creation_lock(uri):
                tracker = cls(uri, run_id)
                tracker._client.update_run(run_id, status="RUNNING")
        except TrackingError as error:
            if error.is_temporary:
                raise
            logger.warning("MLflow run %s cannot be continued, a new one is made: %s", run_id, error)
            return None
        return tracker

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Logs finite values at `step`."""
        self.log_history([(int(time.time() * 1000), step, metrics)])

    def log_history(self, entries: Iterable[tuple[int, int, Mapping[str, float]]]) -> None:
        """Logs the finite values of (milliseconds since 1970, step, metrics); those that are there already stay."""
        metrics = [
            Metric(name, float(value), time_ms, step)
            for time_ms, step, values in entries
            for name, value in values.items()
            if math.isfinite(value)
        ]
        with tracking_errors(self.uri):
            for start in range(0, len(metrics), _METRICS_A_CALL):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_A_CALL])

    def log_artifacts(self, path: str | Path, *, artifact_path: str | None = None) -> None:
        """Copies a file or a folder into the run's artifacts."""
        with tracking_errors(self.uri), longer_timeout():
            if Path(path).is_dir():
                self._client.log_artifacts(self.run_id, str(path), artifact_path)
            else:
                self._client.log_artifact(self.run_id, str(path), artifact_path)

    def finish(self, status: Status) -> None:
        """Marks the run as ended."""
        with tracking_errors(self.uri):
            self._client.set_terminated(self.run_id, status)


@dataclass(frozen=True)
class RunView:
    """A run as MLflow has it: parameters and tags as text, the values of one metric by step."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    curve: list[float]


def child_runs(uri: str, parent_run_id: str, *, metric: str) -> list[RunView]:
    """Returns the runs that have another as their parent, the oldest first.

    Raises:
        ConfigError: MLflow has no store of that kind.
        TrackingError: it has no such run, or cannot be asked now.
    """
    with tracking_errors(uri):
        client = open_client(uri)
        experiment_id = client.get_run(parent_run_id).info.experiment_id
        query = f"tags.`{PARENT_TAG}` = '{parent_run_id}'"
        found: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"], page_token=token)
            found += page
            token = page.token or None
        views = []
        for run in found:
            points = client.get_metric_history(run.info.run_id, metric)
            # Of a step that was taken again, the last: a run that was killed goes on from an earlier one.
            by_step = {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
            curve = [by_step[step] for step in sorted(by_step)]
            views.append(RunView(dict(run.data.params), dict(run.data.tags), curve))
    return views


def set_tags(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags of a run; TrackingError where MLflow does not."""
    with tracking_errors(uri):
        entries = [RunTag(name, value[:MAX_TAG_LENGTH]) for name, value in tags.items()]
        open_client(uri).log_batch(run_id, tags=entries)


@contextlib.contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Raises a TrackingError in place of all that MLflow, its HTTP client and its database raise."""
    try:
        yield
    except ConfigError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        is_temporary = _is_temporary(error)
        raise TrackingError(f"tracking.uri: {uri}: {_first_line(error)}", is_temporary=is_temporary) from None


def _is_temporary(error: BaseException) -> bool:
    status: int | None = None
    if isinstance(error, RestException):
        status = error.get_http_status_code()
    elif isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
    if status is not None:
        return status >= 500 or status == _TRIED_AGAIN
    if isinstance(error, OperationalError | OSError):  # a locked database, no room on the disk, a broken connection
        return True
    # MLflow wraps them into an error of its own, whose code an answer that is no JSON has too.
    inner = error.__cause__ or error.__context__
    return inner is not None and not isinstance(inner, requests.exceptions.InvalidURL) and _is_temporary(inner)


@contextlib.contextmanager
def longer_timeout() -> Iterator[None]:
    """Gives a server more time for its answers while the `with` block runs: it stores a large file."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]
    os.environ[name] = str(max(int(before), _ARTIFACT_TIMEOUT_S))
    try:
        yield
    finally:
        os.environ[name] = before


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    """Returns the id of an experiment, which is made where there is none, and shown as one of model training."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, location, _EXPERIMENT_KIND))
    # A kind that somebody chose on the page stays.
    for tag, kind in _EXPERIMENT_KIND.items():
        if tag not in found.tags:
            client.set_experiment_tag(found.experiment_id, tag, kind)
    return str(found.experiment_id)


def _creation_lock(uri: str) -> AbstractContextManager[object]:
    # Two first starts at once would both create the tables of an SQLite store.
    if not uri.startswith(_SQLITE):
        return nullcontext()
    path = Path(uri.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S)


def open_client(uri: str) -> MlflowClient:
    """Returns a client of a server or store; ConfigError where MLflow has none of that kind."""
    configure_environment(_MLFLOW_ENVIRONMENT)
    # Both log each error that they raise as well, at each of many attempts.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").addFilter(_is_not_about_mlflow)
    try:
        return MlflowClient(uri)
    except MlflowException as error:
        raise ConfigError(
            f"tracking.uri: expected an address such as http://127.0.0.1:5000 or a store such as "
            f"sqlite:////absolute/path/mlflow.db, found {uri!r}: {_first_line(error)}"
        ) from None


def _is_not_about_mlflow(record: logging.LogRecord) -> bool:
    return "/mlflow" not in record.getMessage()


def _first_line(error: BaseException) -> str:
    """Returns the first line of an error; of a connection's error the innermost reason, not the whole chain."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(_SQLALCHEMY_ADVICE)]
    line = lines[0] if lines else type(error).__name__
    reason = _REASON.search(line)
    return line if reason is None else reason.group(1)
