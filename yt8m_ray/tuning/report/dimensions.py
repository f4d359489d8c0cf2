"""The searched keys as axes: where a value lies on one, and what is written there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from yt8m_ray.config.space import Parameter, encode
from yt8m_ray.tuning.records import TrialRecord, searched_keys

_LOG_RATIO = 30.0
"""Numbers whose largest is so many times the smallest are laid out by decade where no space says how."""

_MAX_CHARACTERS = 48


@dataclass(frozen=True)
class Dimension:
    """One searched key.

    Attributes:
        key: By its dots.
        scale: `category` has one place for each of `values`, which need not be numbers.
        low, high: The ends of the other scales.
        is_whole: Whether there are only whole numbers.
        values: Of a `category`, in the order of their places.
        labels: What to write there; no two are equal.
    """

    key: str
    scale: Literal["linear", "log", "category"]
    low: float = 0.0
    high: float = 0.0
    is_whole: bool = False
    values: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()

    def index(self, value: Any) -> int:
        """Returns the place of a category."""
        return [encode(one) for one in self.values].index(encode(value))

    def position(self, value: Any) -> float:
        """Returns where a value lies, from 0 to 1."""
        if self.scale == "category":
            return self.index(value) / (len(self.values) - 1) if len(self.values) > 1 else 0.5
        place, low, high = (math.log(one) if self.scale == "log" else one for one in (value, self.low, self.high))
        return (place - low) / (high - low) if high > low else 0.5


def dimensions_of(records: Sequence[TrialRecord], space: Mapping[str, Parameter] | None = None) -> list[Dimension]:
    """Returns every key that was chosen in some trial, in the order in which they come.

    Args:
        records: The trials.
        space: Says how a key is laid out and between what; where a key is missing, its values say it.
    """
    found = []
    for key in searched_keys(records):
        values = [record.params[key] for record in records if key in record.params]
        found.append(_dimension(key, values, (space or {}).get(key)))
    return found


def _dimension(key: str, values: list[Any], parameter: Parameter | None) -> Dimension:
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not is_numeric or (parameter is not None and parameter.choice is not None):
        return _category(key, [*(parameter.choice or [] if parameter else []), *values])
    # Population based training may leave the range that the first generation was drawn from.
    ends = [*values, *(parameter.bounds if parameter is not None else ())]
    low, high = min(ends), max(ends)
    is_log = parameter.kind.startswith("log") if parameter is not None else 0 < _LOG_RATIO * low < high
    is_whole = all(isinstance(value, int) for value in ends)
    return Dimension(key, "log" if is_log else "linear", low, high, is_whole)


def _category(key: str, values: list[Any]) -> Dimension:
    different = list({encode(value): value for value in values}.values())
    if all(isinstance(value, int | float) for value in different):
        different.sort()
    return Dimension(key, "category", values=tuple(different), labels=tuple(_labels(different)))


def _labels(values: list[Any]) -> list[str]:
    """Returns a short text for each value: of sections what they differ in, and a number where that is not enough."""
    sections = [value for value in values if isinstance(value, dict)]
    common = {name for section in sections for name in section if len(sections) > 1 and _is_common(name, sections)}
    texts = [shown(_without(value, common - {"name"})) for value in values]
    short = [text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…" for text in texts]
    return [
        f"{short[: place + 1].count(text)}: {text}" if short.count(text) > 1 else text
        for place, text in enumerate(short)
    ]


def _without(value: Any, names: set[str]) -> Any:
    return {name: child for name, child in value.items() if name not in names} if isinstance(value, dict) else value


def _is_common(name: str, sections: Iterable[dict[str, Any]]) -> bool:
    return len({encode(section.get(name, "")) for section in sections}) == 1


def shown(value: Any) -> str:
    """Returns a value as a reader wants it: numbers with four digits, lists and sections without quotes."""
    if isinstance(value, bool) or value is None:
        return encode(value)
    if isinstance(value, dict):
        parts = [shown(child) if name == "name" else f"{name} {shown(child)}" for name, child in value.items()]
        return ", ".join(parts) or "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
