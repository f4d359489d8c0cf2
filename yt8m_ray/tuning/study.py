"""The trials of a search in `study.db` of its folder, an Optuna study that every searcher and scheduler feeds."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from yt8m_ray.config.space import Parameter, Params, choose, encode, grid
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.tuning.records import TRAINED, TrialRecord, TrialStatus
from yt8m_ray.tuning.study_file import (
    EARLIER_KEY,
    chosen_value,
    distribution_of,
    is_own,
    open_study,
    records_of,
    stored_value,
    suggest,
    to_record,
    trial_of,
    without_experimental_warnings,
)

logger = logging.getLogger(__name__)

MAX_REFUSED = 200  # invalid or too costly configurations in a row after which the search gives up

_SPACE_KEY, _WALL_KEY = "space", "wall_s"
_MOST_COUNTED = 5000

_MAX_BLIND = 3  # refused configurations in a row after which the next is random

_STATES: dict[TrialStatus, TrialState] = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "invalid": TrialState.FAIL,
    "failed": TrialState.FAIL,
}

Measure = Callable[[TrainConfig], Mapping[str, float]]


@dataclass(frozen=True)
class Suggestion:
    """A configuration to train; `is_continued` where an earlier start of the search began it."""

    number: int
    params: Params
    is_continued: bool = False


class SearchStudy:
    """The study of one search; `measure` returns the costs of a config that is not trained yet.

    Raises:
        ConfigError: the folder holds a search of another space.
    """

    def __init__(self, folder: Path, config: TuneConfig, measure: Measure) -> None:
        self._config = config
        self._measure = measure
        # Reentrant, as the methods call one another; Ray Tune's thread and the main one's tick both come here.
        self._lock = threading.RLock()
        self._size = _num_configurations(config)
        costs = [] if config.tune.pareto is None else [config.tune.pareto]
        self._study = open_study(folder, name=config.run.name, metrics=[config.tune.metric, *costs])
        self._running: dict[int, optuna.Trial] = {}
        _check_same(self._study, config, folder)
        begun = [self._frozen(record.number) for record in self.records() if record.status == "running"]
        self._continued = [frozen.number for frozen in begun if "costs" in frozen.user_attrs]
        # An earlier start was killed between asking for those and measuring their costs.
        self._unmeasured = [frozen.number for frozen in begun if "costs" not in frozen.user_attrs]
        if not self._study.get_trials(deepcopy=False):
            search = config.tune
            for params in grid(search.space, config.base) if search.searcher.name == "grid" else search.start_with:
                self._enqueue(params)

    def records(self) -> list[TrialRecord]:
        """Returns all trials that were handed out, by number."""
        with self._lock:
            return records_of(self._study)

    def record(self, number: int) -> TrialRecord:
        """Returns one of them."""
        with self._lock:
            return to_record(self._frozen(number))

    def next(self) -> Suggestion | None:
        """Returns the configuration to train next, first those that an earlier start began; None at the end.

        Raises:
            ConfigError: MAX_REFUSED configurations in a row were invalid or over a limit, which the study records.
        """
        with self._lock:
            if self._continued:
                number = self._continued.pop(0)
                return Suggestion(number, self.record(number).params, is_continued=True)
            faults: list[str] = []
            while len(faults) < MAX_REFUSED:
                if self._is_spent() or (self._size is not None and len(self._tried()) >= self._size):
                    return None
                suggestion = self._ask()
                fault = None if suggestion is None else self._refuse(suggestion.number, suggestion.params)
                if fault is None:
                    return suggestion
                faults.append(fault)
            raise ConfigError(
                f"tune.space: {MAX_REFUSED} configurations in a row were invalid or over tune.limits; the last: "
                f"{faults[-1]}"
            )

    def report(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Records the validation metrics of an epoch of a running trial, without those that are not finite."""
        score = metrics.get(self._config.tune.metric, math.nan)
        with self._lock:
            before = self.record(number)
            if before.status != "running" or math.isnan(score):
                return
            if not self._is_front:  # Optuna takes no intermediate values of several objectives
                self._trial(number).report(score, epoch)
            scores = before.scores | {epoch: score}
            if score >= max(scores.values()):
                self.note(number, metrics={name: value for name, value in metrics.items() if math.isfinite(value)})
            self.note(number, scores={str(epoch): value for epoch, value in scores.items()})

    def note(self, number: int, **facts: Any) -> None:
        """Records facts of a trial, fields of `TrialRecord`; does nothing after its end."""
        with self._lock:
            if not self._frozen(number).state.is_finished():
                for name, value in facts.items():
                    self._trial(number).set_user_attr(name, value)

    def tell(self, number: int, status: TrialStatus, cause: str = "") -> TrialRecord:
        """Records how a trial ended, unless it has ended before, and returns its record."""
        with self._lock:
            record = self.record(number)
            if record.status != "running":
                return record
            # A trial without a score has nothing to learn from.
            state = TrialState.FAIL if status in TRAINED and not record.scores else _STATES[status]
            self.note(number, status=status, **({"cause": cause} if cause else {}))
            values = None
            # A pruned trial counts in Optuna by its intermediate values, which a front does not have.
            if state is TrialState.COMPLETE or (state is TrialState.PRUNED and self._is_front and record.scores):
                state = TrialState.COMPLETE
                pareto = self._config.tune.pareto
                values = [record.best_score, *([] if pareto is None else [record.costs[pareto]])]
            self._study.tell(number, values, state)
            self._running.pop(number, None)
            return self.record(number)

    def stop_requests(self) -> list[int]:
        """Returns the trials that a user ended in the dashboard, which writes no status."""
        with self._lock:
            found = self._study.get_trials(deepcopy=False, states=[TrialState.FAIL])
            return [frozen.number for frozen in found if is_own(frozen) and "status" not in frozen.user_attrs]

    @property
    def wall_s(self) -> float:
        """Seconds of the search as last recorded."""
        return float(self._study.user_attrs.get(_WALL_KEY, 0.0))

    def set_wall(self, seconds: float) -> None:
        """Records the seconds of the search."""
        with self._lock:
            self._study.set_user_attr(_WALL_KEY, seconds)

    def add_earlier(self, records: Iterable[TrialRecord], source: str) -> int:
        """Adds trials of another search for the searcher to learn from, once; returns how many are in this space."""
        num_added = 0
        with self._lock:
            known = self._study.user_attrs.get(EARLIER_KEY, [])
            if source in known or self._is_front:
                return 0
            for record in records:
                found = self._earlier_trial(record, source)
                if found is not None:
                    self._study.add_trial(found)
                    num_added += 1
            self._study.set_user_attr(EARLIER_KEY, [*known, source])
        return num_added

    @property
    def _is_front(self) -> bool:
        return self._config.tune.pareto is not None

    def _is_spent(self) -> bool:
        num_trials = self._config.tune.budget.trials
        counted = [one for one in self.records() if one.status not in ("infeasible", "invalid")]
        return num_trials is not None and len(counted) - len(self._unmeasured) >= num_trials

    def _ask(self) -> Suggestion | None:
        """Returns a new trial; None after the last of a grid."""
        search, trials = self._config.tune, self._study.get_trials(deepcopy=False)
        num_waiting = sum(trial.state is TrialState.WAITING for trial in trials)
        if search.searcher.name == "grid" and not num_waiting and not self._unmeasured:
            return None
        base_seed = self._config.run.seed if search.searcher.seed is None else search.searcher.seed
        # A sampler a trial, seeded by its number: an interrupted search continues as if it had not been interrupted.
        num_asked = len(trials) - num_waiting - len(self._unmeasured)
        seed = np.random.SeedSequence([base_seed, num_asked]).generate_state(1)[0]
        is_lost = self._is_lost()
        if is_lost and self._size is not None and not num_waiting and not self._unmeasured:
            self._enqueue_untried(int(seed))
        self._study.sampler = _sampler(self._config, int(seed), is_lost=is_lost)
        trial = trial_of(self._study, self._unmeasured.pop(0)) if self._unmeasured else self._study.ask()
        self._running[trial.number] = trial

        def pick(key: str, parameter: Parameter) -> Any:
            return chosen_value(parameter, suggest(trial, key, distribution_of(parameter)))

        params = choose(search.space, self._config.base, pick)
        self.note(trial.number, params=params)
        return Suggestion(trial.number, params)

    def _tried(self) -> list[TrialRecord]:
        if self._config.tune.scheduler.name == "pbt":  # a population changes its configurations
            return []
        return [one for one in self.records() if one.status != "invalid"]

    def _enqueue_untried(self, seed: int) -> None:
        tried = [one.params for one in self.records()]
        untried = [params for params in grid(self._config.tune.space, self._config.base) if params not in tried]
        if untried:
            self._enqueue(untried[int(np.random.default_rng(seed).integers(len(untried)))])

    def _enqueue(self, params: Params) -> None:
        space = self._config.tune.space
        self._study.enqueue_trial({key: stored_value(space[key], value) for key, value in params.items()})

    def _is_lost(self) -> bool:
        """Returns whether the last configurations were refused."""
        # Optuna's Gaussian process does not see such trials, and would suggest the same configuration for ever.
        last = [record.status for record in self.records()[-_MAX_BLIND:]]
        return len(last) == _MAX_BLIND and all(status in ("infeasible", "invalid") for status in last)

    def _refuse(self, number: int, params: Params) -> str | None:
        """Returns why a configuration is not trained, and records it; None for one that is."""
        twin = next((one.number for one in self._tried() if one.number != number and one.params == params), None)
        if twin is not None:  # the same seed would lead to the same end
            return self.tell(number, "invalid", cause=f"the same as trial {twin}").cause
        try:
            costs = self._measure(self._config.trial_config(params))
        except ConfigError as error:
            return self.tell(number, "invalid", cause=str(error).removeprefix("tune.space: ")).cause
        self.note(number, costs=dict(costs))
        limits = {name: limit for name, limit in vars(self._config.tune.limits).items() if limit is not None}
        for name, limit in limits.items():
            self._trial(number).set_constraint(name, costs[name] / limit - 1)
        over = [f"{name} {costs[name]:,.6g} > {limit:,.6g}" for name, limit in limits.items() if costs[name] > limit]
        return self.tell(number, "infeasible", cause=", ".join(over)).cause if over else None

    def _earlier_trial(self, record: TrialRecord, source: str) -> FrozenTrial | None:
        try:
            params = choose(self._config.tune.space, self._config.base, lambda key, _: record.params[key])
        except KeyError:
            return None
        space = self._config.tune.space
        is_inside = all(space[key].contains(value) for key, value in params.items())
        if not is_inside or record.status not in TRAINED or not record.scores:
            return None
        return optuna.create_trial(
            state=_STATES[record.status],
            value=record.best_score,
            params={key: stored_value(space[key], value) for key, value in params.items()},
            distributions={key: distribution_of(space[key]) for key in params},
            user_attrs={EARLIER_KEY: source, "status": record.status, "params": params},
            intermediate_values=record.scores,
        )

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> optuna.Trial:
        if number not in self._running:  # begun by an earlier start, with values that need no sampler
            self._study.sampler = optuna.samplers.RandomSampler()
            self._running[number] = trial_of(self._study, number)
        return self._running[number]


def _num_configurations(config: TuneConfig) -> int | None:
    """Returns how many configurations there are; None for more than some thousands or infinitely many."""
    values = [parameter.values for parameter in config.tune.space.values()]
    counts = [len(one) for one in values if one is not None]
    if len(counts) < len(values) or math.prod(counts) > _MOST_COUNTED:
        return None
    return len(grid(config.tune.space, config.base))


def _check_same(study: optuna.Study, config: TuneConfig, folder: Path) -> None:
    space = {key: parameter.model_dump(mode="json") for key, parameter in config.tune.space.items()}
    before = study.user_attrs.get(_SPACE_KEY)
    if before is None:
        study.set_user_attr(_SPACE_KEY, space)
    elif encode(before) != encode(space):
        changed = sorted(key for key in {*before, *space} if before.get(key) != space.get(key))
        raise ConfigError(
            f"tune.space: {folder} holds a search of another space ({', '.join(changed)}); choose another run.name, "
            "and learn from it by tune.warm_start"
        )


def _sampler(config: TuneConfig, seed: int, *, is_lost: bool) -> optuna.samplers.BaseSampler:
    searcher = config.tune.searcher
    if is_lost or searcher.name not in ("tpe", "gp"):
        return optuna.samplers.RandomSampler(seed=seed)
    with without_experimental_warnings():
        if searcher.name == "tpe":
            # Multivariate, as keys depend on one another; by group, as some exist under a condition only. The constant
            # liar keeps trials that train at once from being alike.
            return optuna.samplers.TPESampler(
                n_startup_trials=searcher.num_random, multivariate=True, group=True, constant_liar=True, seed=seed
            )
        return optuna.samplers.GPSampler(
            n_startup_trials=searcher.num_random, seed=seed, warn_independent_sampling=False
        )
