"""The arguments that verbs share: a config with overrides, a flag for each field of a config, `--dry-run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TypeVar

from yt8m_ray.config.document import load_document, to_yaml, validate
from yt8m_ray.config.shipped import Kind, find_config
from yt8m_ray.errors import ConfigError
from yt8m_ray.registry import Config

C = TypeVar("C", bound=Config)


def add_document(parser: argparse.ArgumentParser) -> None:
    """Adds `CONFIG [section.key=value ...]` and `--dry-run`; `config_of` reads them."""
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG | section.key=value",
        help="a YAML file or the name of a config, then overrides",
    )
    add_dry_run(parser)


def add_dry_run(parser: argparse._ActionsContainer) -> None:
    """Adds `--dry-run`."""
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and exit")


def config_of(options: argparse.Namespace, config_type: type[C], kind: Kind) -> C:
    """Returns the config of `add_document`'s arguments; with `--dry-run` it prints the config and exits."""
    config = load_config(options.arguments, config_type, kind)
    exit_if_dry(options, config)
    return config


def exit_if_dry(options: argparse.Namespace, config: Config) -> None:
    """Prints the resolved config and exits if `--dry-run` was given."""
    if options.dry_run:
        print(to_yaml(config), end="")
        sys.exit(0)


def load_config(arguments: Sequence[str], config_type: type[C], kind: Kind) -> C:
    """Returns the config of `[CONFIG] [section.key=value ...]`; CONFIG is a file, or a name in configs/KIND."""
    paths, overrides = split_overrides(arguments)
    if len(paths) > 1:
        raise ConfigError(f"one CONFIG is expected, found {', '.join(paths)}")
    return load_document(find_config(paths[0], kind) if paths else None, config_type, overrides)


def add_fields(parser: argparse._ActionsContainer, config_type: type[Config], *, but: Sequence[str] = ()) -> None:
    """Adds a flag for each field of a flat config; `fields_of` and `given_fields` read them."""
    for name, field in config_type.model_fields.items():
        if name in but:
            continue
        has_default = not field.is_required() and field.default is not None
        text = f"{field.description} (default: {field.default})" if has_default else field.description
        parser.add_argument(f"--{name.replace('_', '-')}", required=field.is_required(), metavar="VALUE", help=text)


def fields_of(options: argparse.Namespace, config_type: type[C]) -> C:
    """Returns the config of the flags that were given."""
    return validate(given_fields(options, config_type), config_type, where="command line")


def given_fields(options: argparse.Namespace, config_type: type[Config]) -> dict[str, str]:
    """Returns the texts of the flags that were given."""
    texts = {name: getattr(options, name, None) for name in config_type.model_fields}
    return {name: text for name, text in texts.items() if text is not None}


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (inputs, `key=value` overrides); a path that holds `=` is an input if it begins with `.` or `/`."""
    overrides = [text for text in arguments if "=" in text and not text.startswith((".", "/"))]
    return [text for text in arguments if text not in overrides], overrides
