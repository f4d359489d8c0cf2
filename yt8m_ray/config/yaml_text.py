"""YAML text <-> plain values. The only module that imports yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import yaml
from yaml.composer import Composer

_TAGS = "tag:yaml.org,2002"
_SCALARS = {
    "null": r"~|null|",
    "bool": r"true|false|True|False",
    "int": r"-?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
}
_PATTERNS = {kind: re.compile(rf"(?:{pattern})\Z") for kind, pattern in _SCALARS.items()}

_DIRECTIVE = re.compile(r"^%(?!YAML[ \t])\S*", re.MULTILINE)
_MOST_DEPTH = 50
# Keys and values of a document, read in 0.4 s; a bundle that was measured on all 3,844 shards has 12,000.
_MOST_NODES = 50_000
_MOST_DIGITS = 20
_SHOWN_DEPTH = 8
_SHOWN_CHARACTERS = 100


def load_yaml(text: str) -> Any:
    """Returns the value of a document of mappings, lists and plain scalars.

    Scalars are what they look like: `1e-3` is a number; `007`, `2024_01_01` and `no` are text.

    Raises:
        ValueError: it is not YAML, has a key twice, an alias, a tag or a directive, or is too large or too deep; names
            the line and, where there is one, the dotted key.
    """
    directive = _DIRECTIVE.search(text)
    # Refused unread: libyaml compares each %TAG with all before it.
    if directive is not None:
        number = text.count("\n", 0, directive.start()) + 1
        raise ValueError(f"line {number}: found the directive {_cut(directive[0])}; expected a plain document")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise ValueError(f"not YAML{line}: {_cut(str(error.problem or error.context))}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """Returns a mapping as a YAML document, its keys in their order."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Loader(Composer, yaml.CSafeLoader):
    """Parses in C and composes the nodes in Python, to check each."""

    # C is ten times as fast. A document may come from anywhere, and a few lines of YAML can expand to more than a
    # machine's memory holds: each node is checked before the next one is read.

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # typeshed has it on instances

    def __init__(self, text: str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        Composer.__init__(self)
        self._path: list[str] = []
        self._num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        # Neither a key nor the document itself.
        is_value = index is not None
        if is_value:
            self._path.append(str(getattr(index, "value", index)))
        elif parent is not None and isinstance(event, yaml.CollectionStartEvent):
            raise self._refused(event, "expected text as a key, found a list or a mapping")
        self._num_nodes += 1
        if len(self._path) > _MOST_DEPTH:
            raise self._refused(event, f"nested more than {_MOST_DEPTH} deep")
        if self._num_nodes > _MOST_NODES:
            raise self._refused(event, f"more than {_MOST_NODES} keys and values")
        if isinstance(event, yaml.AliasEvent):
            raise self._refused(event, f"found the alias *{event.anchor}; write out its value, or put text into quotes")
        node = super().compose_node(parent, index)
        if is_value:
            self._path.pop()
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        kind = self._kind_of(node, ("str", *_SCALARS))
        if kind != "str" and not _PATTERNS[kind].match(node.value):
            raise self._refused(node, f"expected a value of !!{kind}, found {_cut(repr(node.value))}")
        if kind == "int" and len(node.value) > _MOST_DIGITS:
            raise self._refused(node, f"an integer of {len(node.value)} digits; expected at most {_MOST_DIGITS}")
        return node

    def compose_sequence_node(self, anchor: Any) -> Any:
        node = super().compose_sequence_node(anchor)
        self._kind_of(node, ("seq",))
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        self._kind_of(node, ("map",))
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            # As values: `1` and `1.0`, `true` and `True` are one key.
            name = self.construct_object(key)
            if name in lines:
                raise self._refused(key, f"the key {_cut(repr(key.value))} is there twice, first in line {lines[name]}")
            lines[name] = key.start_mark.line + 1
        return node

    def _kind_of(self, node: Any, kinds: Sequence[str]) -> str:
        prefix, _, kind = node.tag.rpartition(":")
        if prefix != _TAGS or kind not in kinds:
            raise self._refused(node, f"expected a plain value, found the tag {_cut(node.tag)}")
        return str(kind)

    def _refused(self, place: Any, message: str) -> ValueError:
        key = _cut(".".join(self._path[:_SHOWN_DEPTH]))
        return ValueError(f"line {place.start_mark.line + 1}: {key + ': ' if key else ''}{message}")


class _Dumper(yaml.SafeDumper):
    """Keeps nested lists readable and never writes anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(f"{_TAGS}:{_kind}", _pattern, None)
    # Text that looks like one of these gets quotes, besides what YAML 1.1 takes for another thing.
    _Dumper.add_implicit_resolver(f"{_TAGS}:{_kind}", _pattern, None)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
