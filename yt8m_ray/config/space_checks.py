"""Checks a space when its document loads, not in trial 7."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yt8m_ray.config.space import Parameter, Params, allowed_values, apply, lies_in, look_up
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError

# What the search itself sets, trial by trial or for all.
_NOT_SEARCHED = ("output", "run.name", "run.resume", "run.trace_videos", "tracking", "scaling", "checkpoint")
# Metrics of other videos or classes cannot be compared.
_SAME_VIDEOS = (
    *("data.train", "data.validation", "data.test", "data.folds", "data.fold", "data.split_seed"),
    *("data.manifest", "data.on_corrupt", "data.num_classes"),
)


def check_space(space: Mapping[str, Parameter], base: TrainConfig) -> None:
    """Checks that a train config accepts every value of every key; ConfigError with a line for each wrong key."""
    faults = [fault for key in space for fault in [_fault_of(key, space, base)] if fault is not None]
    if faults:
        raise ConfigError("\n".join(faults))


def _fault_of(key: str, space: Mapping[str, Parameter], base: TrainConfig) -> str | None:
    place = f"tune.space.{key}"
    if _touches(key, _NOT_SEARCHED):
        return f"{place}: the search sets this itself; it is the same for all trials"
    if _touches(key, _SAME_VIDEOS):
        return f"{place}: trials that are measured on different videos or classes cannot be compared"
    never = _never_met(space[key], space, base)
    if never is not None:
        return f"{place}.when: {never}"
    in_context: list[str | None] = []
    for context in _contexts(key, space):
        lines = _faults(context, base)
        in_context.append(next(filter(None, (_about(other, lines) for other in context)), None))
        # A fault of another key is reported there.
        if in_context[-1] is not None:
            continue
        for value in space[key].probes:
            fault = _about(key, _faults({**context, key: value}, base))
            if fault is not None:
                where = ", ".join(f"{other}={chosen}" for other, chosen in context.items())
                return f"{place}: {fault}" + (f" (where {where})" if context else "")
    return f"{place}.when: {in_context[-1]}" if space[key].when and all(in_context) else None


def _touches(key: str, others: Sequence[str]) -> bool:
    """Returns whether a key is one of others, inside one of them, or a section around one."""
    return any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in others)


def _never_met(parameter: Parameter, space: Mapping[str, Parameter], base: TrainConfig) -> str | None:
    """Returns the fault of a condition that no value in `base` or in the space meets."""
    tree = base.model_dump(mode="json")
    for other, condition in parameter.when.items():
        values = allowed_values(condition)
        around = [one for one in space if lies_in(other, one)]
        can_be = any(map(space[other].contains, values)) if other in space else bool(around)
        if not can_be and look_up(tree, other) not in values:
            return f"{other} is never {condition}"
    return None


def _faults(params: Params, base: TrainConfig) -> list[str]:
    """Returns a line for each fault of a choice."""
    try:
        apply(base, params, where=None)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _about(key: str, faults: Sequence[str]) -> str | None:
    """Returns the fault of a key alone, not one of its combination with others."""
    for line in faults:
        place, _, reason = line.partition(": ")
        is_above = key.startswith(f"{place}.") and ("unknown key" in reason or "found {" in reason)
        if place == key:
            return reason
        if key == f"{place}.name" and reason.startswith("name: "):
            return reason.removeprefix("name: ")
        if place.startswith(f"{key}.") or is_above or "is a value, not a section" in reason:
            return line
    return None


def _contexts(key: str, space: Mapping[str, Parameter]) -> Iterator[Params]:
    """Yields the choices of other keys that decide whether this one exists: its conditions, its sections' names."""
    deciding: dict[str, list[Any]] = {}
    waiting = [key]
    while waiting:
        one = waiting.pop()
        if one not in space:
            continue
        found = {other: space[other].probes for other in space if lies_in(one, other)}
        found |= {other: allowed_values(condition) for other, condition in space[one].when.items()}
        waiting += [other for other in found if other not in deciding]
        deciding = {**found, **deciding}
    for values in itertools.product(*deciding.values()):
        yield dict(zip(deciding, values, strict=True))
