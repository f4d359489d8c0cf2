"""The space of a search: the dotted keys of a train config that it changes, and their values."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

import pydantic
from pydantic import Field

from yt8m_ray.config.document import leaves, set_key, validate
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.registry import ComponentConfig, Config

KINDS = ("choice", "uniform", "loguniform", "quniform", "integer", "loginteger")

Number = float | int
Range = tuple[Number, Number]
Params = dict[str, Any]  # values by dotted key


class Parameter(Config):
    """The values of a key, given as exactly one of `KINDS`, and its condition."""

    choice: list[Any] | None = None
    """One of these values of any type, also whole sections."""
    uniform: Range | None = None
    """Any number from the first to the second."""
    loguniform: Range | None = None
    """The same, equally likely in each decade; both above 0."""
    quniform: tuple[Number, Number, Number] | None = None
    """[first, last, step]: first, first + step and so on; whole numbers where all three are."""
    integer: tuple[pydantic.StrictInt, pydantic.StrictInt] | None = None
    """A whole number from the first to the last."""
    loginteger: tuple[pydantic.StrictInt, pydantic.StrictInt] | None = None
    """The same, equally likely in each decade."""
    when: dict[str, Any] = Field(default_factory=dict)
    """Other keys, with the value or list of values where this one is searched; elsewhere it keeps the document's."""

    @pydantic.model_serializer(mode="wrap")
    def _short(self, serialize: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value not in (None, {})}

    @property
    def kind(self) -> str:
        """The one of `KINDS` that is set."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def bounds(self) -> Range:
        """The lowest and the highest number of all but a choice."""
        low, high = getattr(self, self.kind)[:2]
        return low, high

    @property
    def step(self) -> Number:
        """Between two values of a `quniform`."""
        assert self.quniform is not None
        return self.quniform[2]

    @property
    def num_steps(self) -> int:
        """From the first to the last value of a `quniform`."""
        low, high, step = self._decimals
        return int((high - low) // step)

    def at(self, number: int) -> Number:
        """Returns the value of a `quniform` after so many steps."""
        low, _, step = self._decimals
        # In decimals: 0.3, where floats of 0.1 + 2 * 0.1 are not.
        value = low + number * step
        return int(value) if all(isinstance(one, int) for one in self.quniform or ()) else float(value)

    @property
    def _decimals(self) -> list[Decimal]:
        assert self.quniform is not None
        return [Decimal(str(one)) for one in self.quniform]

    @property
    def values(self) -> list[Any] | None:
        """Every value, for a grid; None where they cannot be counted."""
        if self.choice is not None:
            return list(self.choice)
        if self.quniform is not None:
            return [self.at(number) for number in range(self.num_steps + 1)]
        return list(range(self.integer[0], self.integer[1] + 1)) if self.integer is not None else None

    @property
    def probes(self) -> list[Any]:
        """Values to check against the document's types: all, or both ends and one between."""
        if self.choice is not None:
            return list(self.choice)
        low, high = self.bounds
        if self.kind == "quniform":
            return [self.at(number) for number in sorted({0, min(1, self.num_steps), self.num_steps})]
        return [low, high] if self.kind in ("integer", "loginteger") else [low, low + 0.382 * (high - low), high]

    def contains(self, value: Any) -> bool:
        """Returns whether a value can be chosen."""
        if self.choice is not None:
            return encode(value) in map(encode, self.choice)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.bounds
        # Infinity and NaN too, which have no whole number.
        if not low <= value <= high:
            return False
        steps = (value - low) / self.step if self.kind == "quniform" else 0
        is_whole = self.kind not in ("integer", "loginteger") or value == int(value)
        # Floats of a step need not be exact.
        return is_whole and abs(steps - round(steps)) < 1e-6

    def is_met(self, tree: Mapping[str, Any]) -> bool:
        """Returns whether `when` holds in a document."""
        return all(look_up(tree, key) in allowed_values(allowed) for key, allowed in self.when.items())

    @pydantic.model_validator(mode="after")
    def _check(self) -> Parameter:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(f"expected exactly one of {', '.join(KINDS)}, found {found}")
        if self.choice is not None:
            texts = [encode(value) for value in self.choice]
            if not texts or len(set(texts)) < len(texts):
                raise ValueError(f"choice: expected at least one value and none twice, found {self.choice}")
            return self
        low, high = self.bounds
        is_empty = low > high if self.kind in ("integer", "loginteger", "quniform") else low >= high
        if is_empty or not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{self.kind}: the range is empty: expected low < high, found [{low}, {high}]")
        if self.kind in ("loguniform", "loginteger") and low <= 0:
            raise ValueError(f"{self.kind}: expected numbers above 0, found {low}")
        if self.quniform is not None and not 0 < self.step <= max(high - low, self.step * (low == high)):
            raise ValueError(f"quniform: expected [low, high, step] with 0 < step <= high - low, found {self.quniform}")
        return self


def allowed_values(condition: Any) -> list[Any]:
    """Returns the values that a condition of `when` allows."""
    return list(condition) if isinstance(condition, list) else [condition]


def encode(value: Any) -> str:
    """Returns a text that is the same for equal values only, also for sections and lists."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    # A config makes 100.0 of a searched 100.
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def flatten_space(node: Any) -> Any:
    """Returns the space by dotted key; a document may nest sections, and null removes a key."""
    if not isinstance(node, Mapping):
        return node
    # An override comes after what it replaces, in its place or nested.
    flat: dict[str, Any] = {}
    for key, child in leaves(node, is_leaf=lambda section: bool(set(section) & {*KINDS, "when"})):
        flat.pop(key, None)
        if child is not None:
            flat[key] = child
    return flat


Space = Annotated[dict[str, Parameter], pydantic.BeforeValidator(flatten_space)]


def ordered(space: Mapping[str, Parameter]) -> list[str]:
    """Returns the keys, each after its sections and the keys of its `when`; ConfigError for a circle."""
    left, done = dict(space), list[str]()
    while left:
        ready = [key for key, parameter in left.items() if not _waits_for(key, parameter, left)]
        if not ready:
            raise ConfigError(f"tune.space: the conditions of {', '.join(left)} go round in a circle")
        done += ready
        for key in ready:
            del left[key]
    return done


def _waits_for(key: str, parameter: Parameter, others: Mapping[str, Parameter]) -> bool:
    return any(
        lies_in(key, other) or any(one == other or lies_in(one, other) for one in parameter.when) for other in others
    )


def lies_in(key: str, other: str) -> bool:
    """Returns whether `other` is a section around a key, or that section's name, which decides whether it exists."""
    section = other.removesuffix(".name")
    return key != other and key.startswith(f"{section}.")


def look_up(tree: Mapping[str, Any], key: str) -> Any:
    """Returns the value at a dotted key of a document, or None."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def choose(space: Mapping[str, Parameter], base: TrainConfig, pick: Any) -> Params:
    """Returns `pick(key, parameter)` of all keys whose conditions hold, called in order."""
    tree, params = base.model_dump(mode="json"), Params()
    for key in ordered(space):
        if space[key].is_met(tree):
            params[key] = pick(key, space[key])
            _put(tree, base, key, params[key])
            if any(lies_in(one, key) for other in space.values() for one in other.when):
                # Its defaults, for conditions on them. A choice that is not valid yet has none.
                with contextlib.suppress(ConfigError):
                    tree = validate(tree, TrainConfig, where=None).model_dump(mode="json")
    return params


def apply(base: TrainConfig, params: Mapping[str, Any], *, where: str | None = "tune.space") -> TrainConfig:
    """Returns `base` with a choice, or ConfigError; another name in a section resets it to the component's defaults."""
    tree = base.model_dump(mode="json")
    # Sections before the keys in them.
    for key in ordered(dict.fromkeys(params, Parameter(choice=[None]))):
        _put(tree, base, key, params[key])
    return validate(tree, TrainConfig, where=where)


def _put(tree: dict[str, Any], base: TrainConfig, key: str, value: Any) -> None:
    section = key.removesuffix(".name")
    node: Any = base
    for part in section.split("."):
        node = getattr(node, part, None)
    if section == key or not isinstance(node, ComponentConfig | None):
        # A copy, since keys in a section are set in it.
        set_key(tree, key, copy.deepcopy(value))
    elif look_up(tree, key) != value:
        # Another component has other keys.
        set_key(tree, section, {"name": value})


def grid(space: Mapping[str, Parameter], base: TrainConfig) -> list[Params]:
    """Returns every choice once, the last key changing fastest; ConfigError for a key with infinitely many values."""
    for key, parameter in space.items():
        if parameter.values is None:
            raise ConfigError(f"tune.space.{key}: a grid needs values that can be counted: choice, quniform or integer")
    found: list[Params] = []
    # The first decisions of choices that are not followed yet. A decision can add keys and remove others, so that this
    # is no plain product.
    pending: list[list[Any]] = [[]]
    while pending:
        taken = pending.pop()
        trail: list[tuple[Any, Sequence[Any]]] = []

        def pick(_: str, parameter: Parameter, taken: list[Any] = taken, trail: Any = trail) -> Any:
            values = parameter.values or []
            depth = len(trail)
            value = taken[depth] if depth < len(taken) else values[0]
            trail.append((value, values))
            return value

        found.append(choose(space, base, pick))
        decided = [value for value, _ in trail]
        for depth in range(len(taken), len(trail)):
            pending += [[*decided[:depth], value] for value in reversed(trail[depth][1][1:])]
    return found
