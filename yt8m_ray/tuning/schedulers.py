"""Ray Tune's schedulers, built from a config and the results of earlier starts of the search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from yt8m_ray.config.space import Parameter
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.tuning.records import TRAINED, TrialRecord
from yt8m_ray.tuning.trial import EPOCH, SCORE, trial_name


class _MedianStopping(MedianStoppingRule):
    """Ray's rule, without the results of trials that failed, which have no score."""

    def remember(self, trial: Any, results: Sequence[dict[str, Any]]) -> None:
        self._results[trial].extend(results)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if SCORE in result:
            super().on_trial_complete(tune_controller, trial, result)


class _Population(PopulationBasedTraining):
    """Lets a searcher draw the first population."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Ray 2.60 refuses a searcher here, since it does not learn how trials change; our study does.
        super().on_trial_add(cast(Any, SimpleNamespace(search_alg=None)), trial)


def build_scheduler(config: TuneConfig, earlier: Sequence[TrialRecord] = ()) -> TrialScheduler:
    """Returns the configured scheduler; ASHA and the median rule compare new trials with those of `earlier` starts."""
    # HyperBand and population based training start again with the trials that continue.
    options = config.tune.scheduler
    common: dict[str, Any] = {"time_attr": EPOCH, "metric": SCORE, "mode": "max"}
    # The schedulers know a trial by its id alone.
    ended: list[tuple[Any, list[dict[str, Any]]]] = [
        (
            SimpleNamespace(trial_id=f"earlier_{trial_name(record.number)}"),
            [{EPOCH: epoch, SCORE: score} for epoch, score in sorted(record.scores.items())],
        )
        for record in earlier
        if record.status in TRAINED
    ]
    if options.name == "asha":
        asha = AsyncHyperBandScheduler(
            **common,
            max_t=config.max_epochs,
            grace_period=min(options.grace_epochs, config.max_epochs),
            reduction_factor=options.reduction_factor,
            brackets=options.brackets,
        )
        controller: Any = None  # ASHA does not use it
        for trial, results in ended:
            asha.on_trial_add(controller, trial)
            for result in results:
                asha.on_trial_result(controller, trial, result)
        return asha
    if options.name == "median":
        median = _MedianStopping(
            **common,
            grace_period=options.grace_epochs,
            min_samples_required=options.min_trials,
            min_time_slice=cast(int, math.inf),  # no trial makes room for one that waits
        )
        for trial, results in ended:
            median.remember(trial, results)
        return median
    if options.name == "hyperband":
        return HyperBandScheduler(**common, max_t=config.max_epochs, reduction_factor=options.reduction_factor)
    if options.name == "pbt":
        return _population(config, common)
    return FIFOScheduler()


def _population(config: TuneConfig, common: dict[str, Any]) -> PopulationBasedTraining:
    options, space = config.tune.scheduler, config.tune.space

    def into_range(values: dict[str, Any]) -> dict[str, Any]:
        for key in options.perturb:
            if space[key].choice is None:
                low, high = space[key].bounds
                values[key] = min(max(values[key], low), high)
        return values

    return _Population(
        **common,
        perturbation_interval=options.perturbation_epochs,
        hyperparam_mutations={key: _mutation(space[key]) for key in options.perturb},
        quantile_fraction=options.quantile,
        resample_probability=options.resample_probability,
        synch=options.synchronous,
        custom_explore_fn=into_range,
        # Ray would write a file of its own for each change; the study has them.
        log_config=False,
    )


def _mutation(parameter: Parameter) -> Any:
    if parameter.choice is not None:
        return list(parameter.choice)
    domains: dict[str, Callable[..., Any]] = {
        "uniform": tune.uniform,
        "loguniform": tune.loguniform,
        "quniform": tune.quniform,
        "integer": lambda low, high: tune.randint(low, high + 1),
        "loginteger": lambda low, high: tune.lograndint(low, high + 1),
    }
    return domains[parameter.kind](*getattr(parameter, parameter.kind))
