"""The searched keys as Optuna's distributions, and the trials of a report as a study of Optuna's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from yt8m_ray.config.space import Parameter, encode
from yt8m_ray.tuning.records import TrialRecord, searched_keys

_LOG_RATIO = 30.0  # without a space, numbers whose largest is this many times the smallest get a logarithmic axis

_MAX_CHARACTERS = 48


@dataclass(frozen=True)
class Dimension:
    """One searched key."""

    key: str
    distribution: BaseDistribution  # a category that is not numeric has distinct labels as choices
    values: tuple[Any, ...] = ()  # of a category, in the order of its choices

    def stored(self, value: Any) -> Any:
        """Returns the value, or the choice that stands for it."""
        if not isinstance(self.distribution, CategoricalDistribution):
            return value
        return self.distribution.choices[[encode(one) for one in self.values].index(encode(value))]


def dimensions_of(records: Sequence[TrialRecord], space: Mapping[str, Parameter] | None = None) -> list[Dimension]:
    """Returns every key that some trial has, in the order of appearance; the scale comes from `space` or the values."""
    return [
        _dimension(key, [one.params[key] for one in records if key in one.params], (space or {}).get(key))
        for key in searched_keys(records)
    ]


def study_of(records: Sequence[TrialRecord], dimensions: Sequence[Dimension], cost: str | None = None) -> optuna.Study:
    """Returns a study in memory of trials with a score, in their order; with `cost` its first objective."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize"] if cost is None else ["minimize", "maximize"])
    for record in records:
        chosen = [dimension for dimension in dimensions if dimension.key in record.params]
        trial = optuna.create_trial(
            values=[*([] if cost is None else [record.costs[cost]]), record.best_score],
            params={one.key: one.stored(record.params[one.key]) for one in chosen},
            distributions={one.key: one.distribution for one in chosen},
        )
        study.add_trial(trial)
    return study


def _dimension(key: str, values: list[Any], parameter: Parameter | None) -> Dimension:
    choices = parameter.choice if parameter is not None else None
    if choices is not None or not all(map(_is_number, values)):
        different = list({encode(value): value for value in [*(choices or []), *values]}.values())
        is_numeric = all(map(_is_number, different))
        if is_numeric:
            different.sort()
        choices = different if is_numeric else _labels(different)
        return Dimension(key, CategoricalDistribution(choices), tuple(different))
    # Population based training may leave the range that the first generation was drawn from.
    ends = [*values, *(parameter.bounds if parameter is not None else ())]
    low, high = min(ends), max(ends)
    log = parameter.kind.startswith("log") if parameter is not None else 0 < _LOG_RATIO * low < high
    kind = IntDistribution if all(isinstance(value, int) for value in ends) else FloatDistribution
    return Dimension(key, kind(low, high, log=log))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _labels(values: list[Any]) -> list[str]:
    """Returns a short, distinct text for each value; sections show what they differ in."""
    sections = [value for value in values if isinstance(value, dict)]
    names = {name for section in sections for name in section} - {"name"}
    common = {name for name in names if len({encode(section.get(name, "")) for section in sections}) == 1}
    if len(sections) > 1:
        values = [
            {name: child for name, child in value.items() if name not in common} if isinstance(value, dict) else value
            for value in values
        ]
    texts = [shown(value) for value in values]
    short = [text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…" for text in texts]
    return [
        f"{short[: place + 1].count(text)}: {text}" if short.count(text) > 1 else text
        for place, text in enumerate(short)
    ]


def shown(value: Any) -> str:
    """Returns a value for readers: numbers with four digits, lists and sections without quotes."""
    if isinstance(value, bool) or value is None:
        return encode(value)
    if isinstance(value, dict):
        parts = [shown(child) if name == "name" else f"{name} {shown(child)}" for name, child in value.items()]
        return ", ".join(parts) or "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
