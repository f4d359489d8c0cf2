"""Writes docs/configuration.md, the reference of every key, from the types: python docs/configuration.py."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from serve.settings import Limits, ServeArgs
from yt8m_ray.components import HEADS, LOSSES, MODELS, SAMPLERS
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.registry import MOST, ComponentConfig, Config, Registry

DOCUMENT = Path(__file__).with_name("configuration.md")

HEAD = """# Every key

Made from the types by `python docs/configuration.py`; a test compares. A key is written the same in a YAML file, as an
override (`train.num_epochs=3`), in the space of a search, as a parameter in MLflow and in a message.
`yt8m VERB CONFIG --dry-run` prints all of them with their values.
"""

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def document() -> str:
    """Returns the text of docs/configuration.md."""
    parts = [HEAD.rstrip(), *_of("A run: `yt8m train`", TrainConfig)]
    parts += _of("A search: `yt8m tune`", TuneConfig, known=TrainConfig, note="All keys of a run, and these.")
    parts += [*_of("A bundle: `yt8m export`", ExportConfig), *_of("An evaluation: `yt8m evaluate`", EvaluateConfig)]
    settings = "Flags of `yt8m serve` (`--max-batch-size`), and keys of serve/config.yaml"
    parts += _of("The service", ServeArgs, note=f"{settings}: `args`.")
    parts += _of("Limits of the service", Limits, note=f"{settings}: `user_config`, which a running service takes too.")
    for title, registry in (("Models", MODELS), ("Heads", HEADS), ("Samplings", SAMPLERS), ("Losses", LOSSES)):
        parts.append(f"\n## {title}, by name\n")
        parts += [part for name in registry.names() for part in _component(name, registry)]
    return "\n".join(parts).rstrip() + "\n"


def _of(title: str, config_type: type[Config], *, known: type[Config] | None = None, note: str = "") -> list[str]:
    skipped = set() if known is None else {row[0] for row in _rows(known)}
    rows = [row for row in _rows(config_type) if row[0] not in skipped]
    return [f"\n## {title}\n", *([note, ""] if note else []), *_table(rows)]


def _component(name: str, registry: Registry[Any]) -> list[str]:
    config_type = registry.config_type(name)
    rows = [row for row in _rows(config_type) if row[0] != "name"]
    about = " ".join((inspect.getdoc(config_type) or "").split())
    return [f"\n### {name}\n", about, *(["", *_table(rows)] if rows else [])]


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return ["| key | type | default | |", "|---|---|---|---|", *lines]


def _rows(config_type: type[Config], prefix: str = "") -> Iterator[tuple[str, ...]]:
    texts = _attribute_docstrings(config_type)
    for name, field in config_type.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, Config) and section is not ComponentConfig:
            yield from _rows(section, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
        yield f"`{prefix}{name}`", _type(section, field.metadata), _default(default), texts.get(name, "")


def _type(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each, metadata) for each in arguments))
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _type(arguments[0], [*metadata, *annotation.__metadata__])
    if origin is not None:
        kinds = {list: "list of", tuple: "list of", dict: "mapping to"}
        inner = [each for each in arguments if each is not Ellipsis][-1]
        return f"{kinds.get(origin, origin.__name__)} {_type(inner, [])}"
    if annotation is type(None):
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, ComponentConfig):
        return "one by name"
    name = {"str": "text", "bool": "true or false"}.get(annotation.__name__, annotation.__name__)
    bounds = [
        f"{sign} {value:g}"
        for each in _flat(metadata)
        for bound, sign in _BOUNDS.items()
        if (value := getattr(each, bound, None)) is not None and value != MOST
    ]
    return " ".join([name, *bounds]) if name in ("int", "float") else name


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for each in metadata:
        yield from _flat(each.metadata) if hasattr(each, "metadata") and not inspect.isclass(each) else [each]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, ComponentConfig):
        return f"`{value.name}`"
    if isinstance(value, Config) or value in ({}, (), []):
        return "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, dict):
        return f"`{', '.join(f'{key}: {each}' for key, each in value.items())}`"
    return f"`{', '.join(map(str, value)) if isinstance(value, list | tuple) else value}`"


def _attribute_docstrings(config_type: type[Config]) -> dict[str, str]:
    """Returns the texts below the fields of a type and of those that it extends."""
    texts: dict[str, str] = {}
    for each in reversed(config_type.__mro__):
        if not issubclass(each, Config) or each.__module__ == Config.__module__:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                value = text.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    texts[field.target.id] = re.sub(r"\s+", " ", value.value).strip()
    return texts


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
