"""A searched key as Optuna has it: its distribution, and what it keeps of a value."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from yt8m_ray.config.space import Parameter, encode


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Returns the distribution that a key is drawn from."""
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
    """Lets the sampler of a trial draw a key, and returns what Optuna keeps of it."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        step, log = distribution.step, distribution.log
        return trial.suggest_int(key, distribution.low, distribution.high, step=step, log=log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def stored_value(parameter: Parameter, value: Any) -> Any:
    """Returns what Optuna keeps of a value: sections and lists, which it does not know, as their text."""
    return encode(value) if parameter.choice is not None and isinstance(value, dict | list) else value


def chosen_value(parameter: Parameter, stored: Any) -> Any:
    """Returns the value that `stored_value` was made of."""
    if parameter.choice is not None:
        return next(value for value in parameter.choice if stored_value(parameter, value) == stored)
    if parameter.quniform is not None:
        return parameter.at(round((stored - parameter.bounds[0]) / parameter.step))
    return stored
