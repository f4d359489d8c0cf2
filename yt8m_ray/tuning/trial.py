"""The process of a trial on the cluster: a training run, epoch by epoch."""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray import tune

from yt8m_ray.artifacts.checkpoint import adopt_checkpoint
from yt8m_ray.artifacts.checkpoint_folders import best_checkpoint, latest_checkpoint
from yt8m_ray.cluster import root_cause
from yt8m_ray.config.document import override
from yt8m_ray.config.space import Params
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import trial_config
from yt8m_ray.tracking.runs import PARENT_TAG
from yt8m_ray.training.driver.interruptible import STOP_TIMEOUT_S
from yt8m_ray.training.driver.trainer import WorkersLostError, fit
from yt8m_ray.training.run.hooks import RunHooks
from yt8m_ray.training.run.log_files import logging_to
from yt8m_ray.training.run.run_folder import wait_until_free

SEARCH_KEY = "search"  # the key of `TrialFacts` in a trial's config; the other keys are its params

TRIALS_FOLDER, DONORS_FOLDER = "trials", "donors"
LOG_FILE = "search.log"

SCORE, EPOCH = "score", "epoch"  # the keys of a result that Ray's schedulers read

_STATE_FILE = "trial.json"
_END_TIMEOUT_S = STOP_TIMEOUT_S + 15.0
_POLL_S = 0.2
_NUM_DONORS = 2
_MAX_CAUSE = 500

Result = dict[str, Any]


def trial_name(number: int) -> str:
    """Returns the name of a trial and of its run's folder."""
    return f"trial_{number:04d}"


def stop_file(folder: Path, name: str) -> Path:
    """Returns the file whose appearance stops a trial of the search in `folder`."""
    return folder / TRIALS_FOLDER / name / "stop"


@dataclass(frozen=True)
class TrialFacts:
    """What is the same for all trials of a search."""

    base: dict[str, Any]  # the train config that they change, as a document
    folder: str  # the search's
    max_epochs: int | None  # None leaves that to a trial's config
    metric: str  # the validation metric that is the score
    cpus_per_worker: float
    mlflow_run_id: str  # the search's run in MLflow, or empty
    tags: dict[str, str] = field(default_factory=dict)  # of each trial's run there


class _Run(RunHooks):
    """A training run in a thread, whose epochs the caller waits for; a file at `stop_file` ends it."""

    has_uploads = False

    def __init__(self, config: TrainConfig, stop_file: Path, tags: Mapping[str, str], metric: str) -> None:
        self.tags = tags
        self.is_in_process = config.scaling.most_workers == 1
        self._config = config
        self._stop_file = stop_file
        self._metric = metric
        self._events: queue.Queue[Result | BaseException] = queue.Queue()
        self._is_stopping, self._may_go_on = threading.Event(), threading.Event()
        self._last: Result = {EPOCH: 0}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def checkpoint_written(self, metrics: Mapping[str, float]) -> None:
        if "validation/gap" not in metrics:
            return
        self._last = _to_result(metrics, self._metric)
        if self._last[EPOCH] >= self._config.train.num_epochs:
            return  # Ray Tune takes no result after the last, so the end of the run brings this one
        self._may_go_on.clear()
        self._events.put(self._last)
        # The run waits while the scheduler decides; a run with workers in other processes does not.
        while self.is_in_process and not self._may_go_on.wait(_POLL_S) and not self.should_stop():
            pass

    def should_stop(self) -> bool:
        return self._is_stopping.is_set() or self._stop_file.exists()

    def next(self) -> Result:
        """Waits for the next epoch or the end of the run; the last epoch's result is the end's."""
        self._may_go_on.set()
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def stop(self) -> None:
        """Stops the run and waits for its end; ends this process where it does not come."""
        self._is_stopping.set()
        self._thread.join(_END_TIMEOUT_S)
        if self._thread.is_alive():
            os._exit(1)  # two runs would share a process; Ray Tune starts another
        if self.is_in_process and torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()  # the next trial may have another size, and others share the GPU

    def _work(self) -> None:
        try:
            wait_until_free(Path(self._config.output) / self._config.run.name, timeout_s=_END_TIMEOUT_S)
            with logging_to(Path(self._config.output).parent / LOG_FILE, prefix=f"{self._config.run.name}: "):
                result = fit(self._config, self)
            if not self._last[EPOCH]:  # an earlier start had finished the run
                self._last = _to_result(result.metrics, self._metric)
            self._end("completed")
        except SystemExit:
            self._end("stopped")
        except (ValueError, OSError, FloatingPointError, WorkersLostError) as error:
            text = str(root_cause(error)).strip() or repr(error)
            self._end("failed", cause=text.splitlines()[0][:_MAX_CAUSE])
        except BaseException as error:  # noqa: BLE001 - `next` raises it, so that Ray Tune replaces this process
            self._events.put(error)

    def _end(self, status: str, cause: str = "") -> None:
        self._events.put({**self._last, "done": True, "status": status, "cause": cause})


class TrialRunner(tune.Trainable):
    """Trials, one after the other, each a run of `fit`; a step is an epoch."""

    # Ray Tune's checkpoint names a copy of the run's latest one. A trial that continues another's weights (population
    # based training) begins a new run with it; a paused trial continues its run.

    def setup(self, config: dict[str, Any]) -> None:
        self._run: _Run | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> Result:
        if self._run is None:
            self._run = self._start()
        result = self._run.next()
        return {**result, "run_name": self._run_name, "params": json.dumps(self._params)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        state: dict[str, Any] = {"name": self.trial_name, "run_name": self._run_name, "params": self._params}
        latest = latest_checkpoint(self._folder / TRIALS_FOLDER / self._run_name)
        if latest is not None:
            state |= {"checkpoint": str(self._put_aside(latest)), "checkpoint_name": latest.name}
        Path(checkpoint_dir, _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        state = json.loads(Path(checkpoint_dir, _STATE_FILE).read_text(encoding="utf-8"))
        if state["name"] == self.trial_name and state["params"] == self._params:  # it was paused
            self._run_name = state["run_name"]
        elif "checkpoint" in state:
            self._go_on_from(Path(state["checkpoint"]), state["checkpoint_name"])

    def cleanup(self) -> None:
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        self._search = TrialFacts(**config[SEARCH_KEY])
        self._folder: Path = Path(self._search.folder)
        self._params: Params = {key: value for key, value in config.items() if key != SEARCH_KEY}
        runs = sorted((self._folder / TRIALS_FOLDER).glob(f"{self.trial_name}.*"), key=lambda run: int(run.suffix[1:]))
        self._run_name = runs[-1].name if runs else self.trial_name

    def _start(self) -> _Run:
        run_folder = self._folder / TRIALS_FOLDER / self._run_name
        run_folder.mkdir(parents=True, exist_ok=True)
        tags = {**self._search.tags, "yt8m_ray.trial": self.trial_name}
        if self._search.mlflow_run_id:
            tags[PARENT_TAG] = self._search.mlflow_run_id
        return _Run(self._train_config(), stop_file(self._folder, self.trial_name), tags, self._search.metric)

    def _train_config(self) -> TrainConfig:
        base = TrainConfig.model_validate(self._search.base)
        changes = {
            "output": str(self._folder / TRIALS_FOLDER),
            "run.name": self._run_name,
            "run.resume": "auto",
            "train.report": False,
            "scaling.cpus_per_worker": self._search.cpus_per_worker,
        }
        return override(trial_config(base, self._params, max_epochs=self._search.max_epochs), changes)

    def _put_aside(self, checkpoint: Path) -> Path:
        # A copy, since the run replaces its checkpoints; the last two copies of a trial stay.
        donors: Path = self._folder / DONORS_FOLDER / self.trial_name
        donor = donors / f"{self._run_name}-{checkpoint.name}"
        if not donor.exists():
            adopt_checkpoint(checkpoint, donor, self._train_config())
        for old in sorted(donors.iterdir(), key=lambda path: path.stat().st_mtime)[:-_NUM_DONORS]:
            shutil.rmtree(old, ignore_errors=True)
        return donor

    def _go_on_from(self, donor: Path, name: str) -> None:
        """Begins a new run of this trial with the weights and the progress of another."""
        stem, _, number = self._run_name.partition(".")
        self._run_name = f"{stem}.{int(number or 0) + 1}"
        run_folder = self._folder / TRIALS_FOLDER / self._run_name
        shutil.rmtree(run_folder, ignore_errors=True)
        run_folder.mkdir(parents=True)
        adopt_checkpoint(donor, run_folder / name, self._train_config())

    def _end(self) -> None:
        if self._run is not None:
            self._run.stop()
            self._run = None


def best_of_trial(folder: Path, name: str) -> tuple[Path, dict[str, float]]:
    """Returns (checkpoint, metrics) of a trial's best checkpoint; CheckpointError where it has none."""
    runs = [run for run in (folder / TRIALS_FOLDER).glob(f"{name}*") if run.name.partition(".")[0] == name]
    return max((best_checkpoint(run) for run in runs), key=lambda found: found[1].get("validation/gap", -math.inf))


def _to_result(metrics: Mapping[str, float], metric: str) -> Result:
    validation = {
        name.removeprefix("validation/"): value for name, value in metrics.items() if name.startswith("validation/")
    }
    result: Result = {
        EPOCH: int(metrics["epoch"]),
        "metrics": json.dumps(validation),
        "videos_per_s": metrics.get("train/videos_per_s", math.nan),
        "epoch_seconds": metrics.get("seconds", math.nan),
    }
    if not math.isnan(validation[metric]):  # NaN without any label; schedulers ignore results without a score
        result[SCORE] = validation[metric]
    return result
