"""Runs the trials of a study with Ray Tune, and records their epochs and ends in it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.local_cluster import configure_environment
from yt8m_ray.tracking.source import source_tags
from yt8m_ray.tuning.capacity import TRIAL_CPUS, Capacity
from yt8m_ray.tuning.progress import describe_end, describe_params
from yt8m_ray.tuning.records import TrialStatus, total_epochs
from yt8m_ray.tuning.schedulers import build_scheduler
from yt8m_ray.tuning.study import SearchStudy
from yt8m_ray.tuning.trial import EPOCH, SCORE, SEARCH_KEY, TrialFacts, TrialRunner, stop_file, trial_name
from yt8m_ray.tuning.winner import BEST_FOLDER

logger = logging.getLogger(__name__)

# Ray Tune reads these when a search starts.
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files of their own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails has no score
    "RAY_AIR_NEW_OUTPUT": "0",  # boxes on stdout
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
}
_FOLDER = "tune"
_PENDING = "TUNE_MAX_PENDING_TRIALS_PG"
_MOST_WAITING = 81  # a bracket of HyperBand with factor 3
_WALL_INTERVAL_S = 5.0


class SearchState:
    """The state of a search that Ray Tune's callbacks share; `on_end` is called with each trial that has ended."""

    def __init__(self, config: TuneConfig, study: SearchStudy, folder: Path, on_end: Any) -> None:
        self.study = study
        self.folder = folder
        self.on_end = on_end
        self.numbers: dict[str, int] = {}  # by Ray's trial id
        self.continued: set[int] = set()  # begun by an earlier start of the search
        self._budget = config.tune.budget
        self._reason = ""
        self.is_interrupted = False  # a later start continues the search
        self._spent_s = study.wall_s
        self._started = self._noted = time.monotonic()
        self._asked: set[int] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles its callbacks to restore a run, which it does without the weights. Here the study continues.
        return {}

    @property
    def reason(self) -> str:
        """Why the search is over; empty while it runs, and where nothing is left to try."""
        if self.is_interrupted:
            return "interrupted"
        if not self._reason:
            epochs, seconds = self._budget.epochs, self._budget.wall_s
            if epochs is not None and total_epochs(self.study.records()) >= epochs:
                self._reason = f"the budget of {epochs} epochs is spent"
            elif seconds is not None and self.wall_s >= seconds:
                self._reason = f"the budget of {seconds:g} seconds is spent"
        return self._reason

    @property
    def wall_s(self) -> float:
        """Seconds of all starts of the search together."""
        return self._spent_s + time.monotonic() - self._started

    def interrupt(self) -> bool:
        """Ends all trials in order; a later start continues them."""
        self.is_interrupted = True
        self._stop_all()
        return True

    def finish(self) -> None:
        """Records the end of trials that Ray Tune has stopped without a callback."""
        for record in self.study.records():
            if record.status == "running" and not self.is_interrupted:
                self.on_end(self.study.tell(record.number, "stopped", self.reason or "left over"))
        if self.reason:
            logger.info("the search is over: %s", self.reason)

    def tick(self) -> None:
        """Stops trials that a user has ended, and all when the search is over; called once a second."""
        for number in self.study.stop_requests():
            self._stop(number)
        if self.reason:
            self._stop_all()
        now = time.monotonic()
        if now - self._noted > _WALL_INTERVAL_S:
            self._noted = now
            self.study.set_wall(self.wall_s)

    def _stop_all(self) -> None:
        for record in self.study.records():
            if record.status == "running":
                self._stop(record.number)

    def _stop(self, number: int) -> None:
        with self._lock:
            if number in self._asked:
                return
            self._asked.add(number)
        with contextlib.suppress(OSError):  # without a folder the trial has not begun
            stop_file(self.folder, trial_name(number)).touch()


class _StudySearcher(Searcher):
    """Suggests what the study suggests."""

    def __init__(self, state: SearchState, facts: TrialFacts) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._state = state
        self._facts = vars(facts)
        self.error: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        state = self._state
        if state.reason:
            return Searcher.FINISHED
        try:
            suggestion = state.study.next()
        except Exception as error:  # noqa: BLE001 - `run_trials` raises it
            self.error = error
            return Searcher.FINISHED
        if suggestion is None:
            return Searcher.FINISHED
        state.numbers[trial_id] = suggestion.number
        stop_file(state.folder, trial_name(suggestion.number)).unlink(missing_ok=True)
        if suggestion.is_continued:
            state.continued.add(suggestion.number)
        return {**suggestion.params, SEARCH_KEY: dict(self._facts)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass  # the recorder does that

    def save(self, checkpoint_path: str) -> None:
        pass  # the study is on the disk

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Recorder(tune.Callback):
    """Records the epochs and ends of trials in the study."""

    def __init__(self, state: SearchState) -> None:
        self._state = state
        self._started: set[int] = set()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = self._state.numbers[trial.trial_id]
        if number not in self._started:  # a paused trial starts again
            self._started.add(number)
            verb = "goes on" if number in self._state.continued else "starts"
            params = self._state.study.record(number).params
            logger.info("trial %d %s: %s", number, verb, describe_params(params))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        state = self._state
        number = state.numbers[trial.trial_id]
        before = state.study.record(number)
        if "metrics" not in result or result[EPOCH] in before.scores:
            return
        state.study.report(number, result[EPOCH], json.loads(result["metrics"]))
        state.study.note(
            number,
            run_name=result["run_name"],
            params=json.loads(result["params"]),
            seconds=before.seconds + result["epoch_seconds"],
            videos_per_s=result["videos_per_s"],
        )
        score = state.study.record(number).scores.get(result[EPOCH])
        logger.info("trial %d epoch %d: %s", number, result[EPOCH], "no score" if score is None else f"{score:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result or {}
        # Without a status of its run, the scheduler has stopped the trial, or the end of the search has.
        status: TrialStatus = result.get("status", "stopped" if self._state.reason else "pruned")
        self._tell(trial, status, result.get("cause", ""))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_error()
        lines = "" if error is None else str(error).strip()
        self._tell(trial, "failed", lines.splitlines()[-1] if lines else "its process was lost")

    def _tell(self, trial: Trial, status: TrialStatus, cause: str) -> None:
        state = self._state
        number = state.numbers[trial.trial_id]
        if status == "stopped" and state.is_interrupted:
            return  # a later start continues it
        if status == "stopped" and not cause:
            cause = state.reason or "by a user"
        record = state.study.tell(number, status, cause)
        logger.log(logging.WARNING if record.status == "failed" else logging.INFO, "%s", describe_end(record))
        state.on_end(record)


class _Stopper(tune.Stopper):
    def __init__(self, state: SearchState) -> None:
        self._state = state

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self._state.reason)


def run_trials(config: TuneConfig, state: SearchState, capacity: Capacity, *, mlflow_run_id: str) -> None:
    """Trains the trials of a search until it is over.

    Raises:
        ConfigError: the space has no configuration that can be trained.
    """
    facts = TrialFacts(
        base=config.base.model_dump(mode="json"),
        folder=str(state.folder),
        max_epochs=config.tune.max_epochs,
        metric=config.tune.metric,
        cpus_per_worker=capacity.cpus_per_worker,
        mlflow_run_id=mlflow_run_id,
        tags=source_tags("trial"),
    )
    searcher = _StudySearcher(state, facts)

    def name_of(trial: Trial) -> str:
        return trial_name(state.numbers[trial.trial_id])

    configure_environment(_TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # On the shared disk, where a trial that moves to another node finds its state.
    with tempfile.TemporaryDirectory(dir=state.folder, prefix=f".{_FOLDER}-") as notes:
        tuner = tune.Tuner(
            tune.with_resources(TrialRunner, _resources(config, capacity)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=build_scheduler(config, state.study.records()),
                num_samples=-1,
                max_concurrent_trials=capacity.num_trials if capacity.is_limit else None,
                reuse_actors=True,
                trial_name_creator=name_of,
                trial_dirname_creator=name_of,
            ),
            run_config=tune.RunConfig(
                name=_FOLDER,
                storage_path=notes,
                callbacks=[_Recorder(state)],
                stop=_Stopper(state),
                failure_config=tune.FailureConfig(max_failures=config.tune.max_failures),
                verbose=0,
            ),
        )
        with _pending_trials(config, capacity):
            try:
                tuner.fit()
            finally:
                state.study.set_wall(state.wall_s)
    if searcher.error is not None:
        raise searcher.error


@contextlib.contextmanager
def _pending_trials(config: TuneConfig, capacity: Capacity) -> Iterator[None]:
    # As many trials begin as a scheduler compares, although some wait; Ray's default is one at a time.
    if capacity.is_limit:
        yield
        return
    os.environ[_PENDING] = str(min(config.tune.budget.trials or _MOST_WAITING, _MOST_WAITING))
    try:
        yield
    finally:
        del os.environ[_PENDING]


def _resources(config: TuneConfig, capacity: Capacity) -> dict[str, float]:
    # A lone worker trains in the trial's own process; beside several, that process only waits.
    if config.scaling.most_workers > 1:
        return {"CPU": TRIAL_CPUS}
    gpus = {"GPU": capacity.gpus_per_worker} if capacity.gpus_per_worker else {}
    return {"CPU": capacity.cpus_per_worker, **gpus}


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary folders of a search that was killed."""
    # Ray Tune's, the study's while it is created, and the winner's while it is written.
    for name in (_FOLDER, "study", BEST_FOLDER):
        for path in folder.glob(f".{name}-*"):
            shutil.rmtree(path, ignore_errors=True)
