"""`study.db` in a search's folder: an Optuna study that others can read while the search writes it."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from yt8m_ray.config.space import Parameter, encode
from yt8m_ray.errors import ConfigError
from yt8m_ray.tuning.records import TrialRecord

STUDY_FILE = "study.db"

EARLIER_KEY = "earlier"  # user attribute of trials that come from other searches

_LOCK_TIMEOUT_S = 60.0

# Fields of a record that are user attributes of a trial; Optuna itself knows the others.
_NOTED = {field.name for field in fields(TrialRecord)} - {"number", "started_s", "ended_s"}


def read_records(folder: Path) -> tuple[list[TrialRecord], str, list[str]]:
    """Returns (trials, metric, costs of the front) of the search in a folder, which it only reads.

    Raises:
        ConfigError: there is none.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise ConfigError(f"{folder}: no search: {STUDY_FILE} is missing")
    study = _load(study_storage(path))
    if study is None:
        raise ConfigError(f"{folder}: no search: {STUDY_FILE} holds none")
    metric, *costs = study.metric_names or ["gap"]
    return records_of(study), metric, costs


def open_study(folder: Path, *, name: str, metrics: list[str]) -> optuna.Study:
    """Opens or creates the study in a folder, which maximizes the first metric and minimizes the others.

    Raises:
        ConfigError: the folder holds one of other metrics.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / STUDY_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # In a folder aside: a reader that opens the file early would create the tables too, and one of both fails.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".study-") as aside:
            storage = study_storage(Path(aside) / STUDY_FILE)
            _create(storage, name, metrics)
            storage.remove_session()
            storage.engine.dispose()
            (Path(aside) / STUDY_FILE).rename(path)
    storage = study_storage(path)
    study = _load(storage) or _create(storage, name, metrics)
    if study.metric_names != metrics:
        raise ConfigError(
            f"tune.metric, tune.pareto: {folder} holds a search for {study.metric_names}, now {metrics}; choose "
            "another run.name"
        )
    return study


def _load(storage: optuna.storages.RDBStorage) -> optuna.Study | None:
    names = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=names[0], storage=storage) if names else None


def _create(storage: optuna.storages.RDBStorage, name: str, metrics: list[str]) -> optuna.Study:
    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(metrics) - 1)]
    with without_experimental_warnings():
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        study.set_metric_names(metrics)
    return study


def study_storage(path: Path, *, timeout_s: float = _LOCK_TIMEOUT_S) -> optuna.storages.RDBStorage:
    """Returns the storage in a file, which waits up to `timeout_s` for other writers.

    Raises:
        ConfigError: the file is no study.
    """
    try:
        return optuna.storages.RDBStorage(
            f"sqlite:///{path.absolute()}", engine_kwargs={"connect_args": {"timeout": timeout_s}}
        )
    except sqlalchemy.exc.DatabaseError as error:
        raise ConfigError(f"{path}: not a study of Optuna's: {error.orig}") from None


@contextlib.contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Silences Optuna's warnings about what it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def is_own(frozen: FrozenTrial) -> bool:
    """Returns whether this search handed a trial out; others wait, or come from earlier searches."""
    return frozen.state is not TrialState.WAITING and EARLIER_KEY not in frozen.user_attrs


def records_of(study: optuna.Study) -> list[TrialRecord]:
    """Returns the own trials, by number."""
    return [to_record(frozen) for frozen in study.get_trials(deepcopy=False) if is_own(frozen)]


def trial_of(study: optuna.Study, number: int) -> optuna.Trial:
    """Returns a running trial to write to; its constructor lets `study.sampler` sample."""
    # Optuna 5.0 has no public way to a trial that another process asked for: `Study.ask` alone returns one.
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def to_record(frozen: FrozenTrial) -> TrialRecord:
    """Returns the record of a trial."""
    # The dashboard ends a trial without a status, and a killed search leaves one without params.
    facts: dict[str, Any] = {"params": {}, "status": "stopped" if frozen.state.is_finished() else "running"}
    facts |= {name: value for name, value in frozen.user_attrs.items() if name in _NOTED}
    # JSON's keys are text.
    facts["scores"] = {int(epoch): score for epoch, score in facts.get("scores", {}).items()}
    return TrialRecord(
        number=frozen.number,
        started_s=frozen.datetime_start.timestamp() if frozen.datetime_start else None,
        ended_s=frozen.datetime_complete.timestamp() if frozen.datetime_complete else None,
        **facts,
    )


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Returns the distribution that the searcher draws a key from."""
    if parameter.choice is not None:
        return CategoricalDistribution([stored_value(parameter, value) for value in parameter.choice])
    low, high = parameter.bounds
    if parameter.kind in ("integer", "loginteger"):
        return IntDistribution(int(low), int(high), log=parameter.kind == "loginteger")
    if parameter.kind == "quniform":
        step, last = parameter.step, parameter.at(parameter.num_steps)
        if isinstance(last, int):
            return IntDistribution(int(low), last, step=int(step))
        return FloatDistribution(low, last, step=step)
    return FloatDistribution(low, high, log=parameter.kind == "loguniform")


def suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    """Draws a key with the trial's sampler, and returns the value as Optuna stores it."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        step, log = distribution.step, distribution.log
        return trial.suggest_int(key, distribution.low, distribution.high, step=step, log=log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def stored_value(parameter: Parameter, value: Any) -> Any:
    """Returns a value as Optuna stores it: sections and lists, which it does not support, as JSON."""
    return encode(value) if parameter.choice is not None and isinstance(value, dict | list) else value


def chosen_value(parameter: Parameter, stored: Any) -> Any:
    """Returns the value for what `stored_value` or `suggest` returned."""
    if parameter.choice is not None:
        return next(value for value in parameter.choice if stored_value(parameter, value) == stored)
    if parameter.quniform is not None:
        return parameter.at(round((stored - parameter.bounds[0]) / parameter.step))
    return stored
