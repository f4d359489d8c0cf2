"""YAML documents <-> typed configs. Defaults in the type < YAML < `section.key=value` on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from yt8m_ray.config.yaml_text import dump_yaml, load_yaml
from yt8m_ray.errors import ConfigError
from yt8m_ray.local_files import read_document
from yt8m_ray.registry import Config, Registry

C = TypeVar("C", bound=Config)

_MOST_FAULTS = 20
_MOST_CHARACTERS = 2000


def load_document(path: str | Path | None, config_type: type[C], overrides: Sequence[str] = ()) -> C:
    """Returns the typed config of a YAML file, or of the type's defaults, with `section.key=value` overrides applied.

    Raises:
        ConfigError: the file is missing or malformed, or a key or value is refused; names the dotted key.
    """
    tree = {} if path is None else read_yaml(Path(path))
    for text in overrides:
        key, value = parse_override(text)
        set_key(tree, key, value)
    return validate(tree, config_type, where="command line" if path is None else str(path))


def validate(tree: Mapping[str, Any], config_type: type[C], *, where: str | None) -> C:
    """Returns `tree` as `config_type`; a ConfigError lists the refused dotted keys, one a line, after `where`."""
    try:
        return config_type.model_validate(tree)
    except pydantic.ValidationError as error:
        prefix = "" if where is None else f"{where}: "
        lines = [line for fault in _explain(error, config_type, tree) for line in fault.splitlines()]
        if len(lines) > _MOST_FAULTS:
            lines[_MOST_FAULTS:] = [f"and {len(lines) - _MOST_FAULTS} more"]
        raise ConfigError("\n".join(f"{prefix}{_cut(line)}" for line in lines)) from None


def override(config: C, changes: Mapping[str, Any]) -> C:
    """Returns `config` with dotted keys replaced: `{"model.num_clusters": 64}`."""
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        set_key(tree, key, value)
    return validate(tree, type(config), where="override")


def parse_override(text: str) -> tuple[str, Any]:
    """Returns (dotted key, value) of `key=value`."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"{text!r}: expected section.key=value")
    return key, parse_value(value)


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in a nested document; a number names a list entry (`members.0.weight`)."""
    *parents, last = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = node[_list_index(node, part, key)]
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{key}: {'.'.join(parents[: depth + 1])} is a value, not a section")
    if isinstance(node, list):
        node[_list_index(node, last, key)] = value
    else:
        node[last] = value


def flatten(config: Config, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """Returns the config by dotted key, lists whole: the names of parameters in MLflow and in search spaces."""
    return dict(leaves(config.model_dump(mode="json", exclude_defaults=exclude_defaults)))


def leaves(node: Any, *, is_leaf: Callable[[Mapping[Any, Any]], bool] = lambda _: False) -> Iterator[tuple[str, Any]]:
    """Yields all values of a document by dotted key; an empty section is a value too."""
    for name, child in node.items():
        if isinstance(child, Mapping) and child and not is_leaf(child):
            yield from ((f"{name}.{key}", value) for key, value in leaves(child, is_leaf=is_leaf))
        else:
            yield str(name), child


def to_yaml(config: Config) -> str:
    """Returns the document with every default written out."""
    return dump_yaml(config.model_dump(mode="json"))


def parse_value(text: str) -> Any:
    """Returns what a text is in YAML, or the text itself: the value of an override, or of a parameter in MLflow."""
    # A bare glob such as *.tfrecord is not YAML.
    try:
        return load_yaml(text)
    except ValueError:
        return text


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """Returns the mapping that `text` holds; ConfigError if it is not a plain YAML mapping."""
    try:
        tree = load_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: expected a mapping of sections, found a {type(tree).__name__}")
    return tree


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a file; ConfigError where it cannot be read, or as in `parse_yaml`."""
    try:
        text = read_document(path).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    return parse_yaml(text, where=str(path))


def _cut(line: str) -> str:
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}..."


def _list_index(node: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"{key}: {part!r} is no entry of a list of {len(node)} (0 to {len(node) - 1})")
    return int(part)


def _explain(error: pydantic.ValidationError, config_type: type[Config], tree: Mapping[str, Any]) -> Iterable[str]:
    for detail in error.errors(include_url=False):
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            valid = _fields_at(config_type, detail["loc"][:-1], tree)
            yield f"{key}: unknown key" + (f"; valid: {', '.join(valid)}" if valid else "")
        elif detail["type"] == "missing":
            yield f"{key}: required, but not given"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            # A fault of the whole document names its key itself.
            place = f"{key}: " if key else ""
            yield f"{place}{message}" + ("" if detail["type"] == "value_error" else f", found {detail['input']!r}")


def _fields_at(config_type: Any, location: Sequence[str | int], tree: Any) -> list[str]:
    """Returns the field names of the section at `location`; a component's are those of the name in `tree`."""
    for part in location:
        if isinstance(part, int):
            return []
        field, tree = config_type.model_fields[part], tree[part]
        # A component's field is validated by a method of its registry.
        registries = [getattr(getattr(item, "func", None), "__self__", None) for item in field.metadata]
        registry = next((item for item in registries if isinstance(item, Registry)), None)
        config_type = registry.config_type(tree["name"]) if registry else field.annotation
        if not hasattr(config_type, "model_fields"):
            return []
    return sorted(config_type.model_fields)
