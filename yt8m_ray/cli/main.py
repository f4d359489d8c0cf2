"""The command `yt8m`: one verb each, in the order of the work.

A verb is a module of this folder with two functions. `configure(parser)` adds its arguments; its docstring is the help.
`run(options)` does the work, and imports inside what takes seconds to import (torch, Ray), so that help, a mistake in
the arguments and `--dry-run` are there at once.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from yt8m_ray import __version__
from yt8m_ray.cli.command import run_guarded
from yt8m_ray.cli.verbs import NAMES, VERBS
from yt8m_ray.errors import ConfigError
from yt8m_ray.wording import nearest

# The service lies outside of the package.
_ELSEWHERE = {"serve": "serve.command"}

_SHELLS = ("bash", "zsh", "fish")


def main() -> NoReturn:
    """Runs the command line of this process and exits."""
    run_guarded(lambda: call(sys.argv[1:]), is_verbose="--verbose" in sys.argv)


def run(verb: str) -> NoReturn:
    """Runs a verb on the arguments of this process and exits: `python -m jobs.VERB`."""
    run_guarded(lambda: call([verb, *sys.argv[1:]], prog=f"python -m jobs.{verb}"), is_verbose="--verbose" in sys.argv)


def call(arguments: Sequence[str], *, prog: str | None = None) -> None:
    """Runs `VERB ARGUMENT...` in this process; errors are raised, SystemExit ends what argparse ends."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    name = arguments[0].replace("_", "-") if arguments else "--help"
    if name.startswith("-"):
        _make_parser().parse_args([name, *arguments[1:]])
    module = _module(name)
    verb_parser = _configured(argparse.ArgumentParser(prog=prog or f"yt8m {name}", **_texts(module)), module)
    # Keys may follow the flags.
    module.run(verb_parser.parse_intermixed_args(arguments[1:]))


def _make_parser() -> argparse.ArgumentParser:
    groups = [
        f"{group}:\n" + "\n".join(f"  {name:<16}{text}" for name, text in verbs.items())
        for group, verbs in VERBS.items()
    ]
    parser = argparse.ArgumentParser(
        prog="yt8m",
        usage="yt8m VERB [ARGUMENT ...]; yt8m VERB --help",
        description="YouTube-8M with Ray: from shards to labels over HTTP.",
        epilog="\n\n".join(groups),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"yt8m_ray {__version__}")
    parser.add_argument(
        "--completion", choices=_SHELLS, action=_PrintCompletion, help='for a shell: eval "$(yt8m --completion bash)"'
    )
    return parser


def _module(name: str) -> Any:
    if name not in NAMES:
        raise ConfigError(f"unknown verb {name!r}{nearest(name, NAMES)}; `yt8m --help` lists them")
    return importlib.import_module(_ELSEWHERE.get(name, f"yt8m_ray.cli.{name.replace('-', '_')}"))


def _texts(module: Any) -> dict[str, Any]:
    return {"description": inspect.getdoc(module), "formatter_class": argparse.RawDescriptionHelpFormatter}


def _configured(parser: argparse.ArgumentParser, module: Any) -> argparse.ArgumentParser:
    module.configure(parser)
    parser.add_argument("--verbose", action="store_true", help="show where an error comes from")
    return parser


def _complete() -> None:
    """Answers a shell that asks how the command line may go on, and exits."""
    import argcomplete

    parser = _make_parser()
    subparsers = parser.add_subparsers()
    for verbs in VERBS.values():
        for name, text in verbs.items():
            module = _module(name)
            _configured(subparsers.add_parser(name, help=text, **_texts(module)), module)
    argcomplete.autocomplete(parser)


class _PrintCompletion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from argcomplete.shell_integration import shellcode

        print(shellcode(["yt8m"], shell=values))
        parser.exit()
