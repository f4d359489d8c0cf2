"""What all verbs share: arguments, the connection to Ray, logging, exit codes.

stdout carries only the result; everything else goes to stderr. Exit codes: 0; 1 data or run failed; 2 config or
arguments; 130 and 143 interrupted and terminated.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from yt8m_ray.config.document import load_document, to_yaml, validate
from yt8m_ray.errors import ClusterDiedError, ClusterTooSmallError, ConfigError, NoShardsError
from yt8m_ray.local_cluster import configure_environment, import_environment
from yt8m_ray.registry import Config

C = TypeVar("C", bound=Config)

logger = logging.getLogger("jobs")

_TERMINATED = 128 + signal.SIGTERM

RAY_ENVIRONMENT = {
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # its errors reach us as exceptions
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # logs an error about itself at every start
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # with it, each line of a worker appears twice
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a run ends one interval late; Ray's default is 2 s
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch asks for large pages: int8 weights are read a fifth faster, training gains too
    "PYTHONWARNINGS": "ignore:`ExecutionOptions.exclude_resources` is deprecated",  # Ray warns of its own code
}
"""What Ray and torch read in every process of a cluster that a verb starts or joins."""


def run_verb(main: Callable[[list[str]], None]) -> NoReturn:
    """Runs `main(argv)` and exits; what a user can mend is one message, without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Migrations and checks: nothing to act on.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Frameworks clean up on KeyboardInterrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _raise_exit)
    try:
        main(sys.argv[1:])
    except (ConfigError, NoShardsError, ClusterTooSmallError) as error:
        _fail(error, 2)
    except ClusterDiedError:
        sys.stdout.flush()
        # Ray's own way out would wait for what has died.
        os._exit(1)
    except (ValueError, OSError, FloatingPointError, OverflowError, MemoryError, RuntimeError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _interrupt()
    except SystemExit as error:
        if error.code == _TERMINATED:
            _terminate()
        raise
    sys.exit(0)


def new_parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser that names the verb of this process."""
    return argparse.ArgumentParser(prog=f"python -m jobs.{Path(sys.argv[0]).stem}", description=description)


def parse_document(argv: Sequence[str], config_type: type[C], *, description: str) -> C:
    """Returns the config of `CONFIG [section.key=value ...]`; `--dry-run` prints it and exits."""
    parser = new_parser(description)
    parser.add_argument(
        "arguments", nargs="*", metavar="CONFIG | section.key=value", help="a YAML file, then overrides"
    )
    add_dry_run(parser)
    options = parser.parse_args(argv)
    config = load_config(options.arguments, config_type)
    exit_if_dry(options, config)
    return config


def add_dry_run(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and exit")


def exit_if_dry(options: argparse.Namespace, config: Config) -> None:
    """Prints the resolved config and exits if `--dry-run` was given."""
    if options.dry_run:
        print(to_yaml(config), end="")
        sys.exit(0)


def load_config(arguments: Sequence[str], config_type: type[C]) -> C:
    """Returns the config of `[CONFIG] [section.key=value ...]`."""
    paths, overrides = split_overrides(arguments)
    if len(paths) > 1:
        raise ConfigError(f"one CONFIG is expected, found {', '.join(paths)}")
    return load_document(paths[0] if paths else None, config_type, overrides)


def add_fields(parser: argparse.ArgumentParser, config_type: type[Config]) -> None:
    """Adds a flag for each field of a flat config; `fields_of` reads them."""
    for name, field in config_type.model_fields.items():
        has_default = not field.is_required() and field.default is not None
        text = f"{field.description} (default: {field.default})" if has_default else field.description
        parser.add_argument(f"--{name.replace('_', '-')}", required=field.is_required(), metavar="VALUE", help=text)


def fields_of(options: argparse.Namespace, config_type: type[C]) -> C:
    """Returns the config of the flags that were given."""
    given = {name: getattr(options, name) for name in config_type.model_fields}
    return validate({name: text for name, text in given.items() if text is not None}, config_type, where="command line")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (inputs, `key=value` overrides); a path that holds `=` is an input if it begins with `.` or `/`."""
    overrides = [text for text in arguments if "=" in text and not text.startswith((".", "/"))]
    return [text for text in arguments if text not in overrides], overrides


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """Connects to $RAY_ADDRESS (`ray job submit` sets it), or starts a cluster of this machine and stops it again.

    ConfigError if $RAY_ADDRESS is no address, ConnectionError or RuntimeError if no cluster answers or starts,
    ClusterDiedError if a process dies that Ray needs.
    """
    # Late: Ray reads the environment when it is imported, and many verbs do without it.
    import ray

    from jobs.cluster import join_cluster, start_cluster, watched_cluster

    configure_environment(RAY_ENVIRONMENT)
    # A verb inside another, as in the demo: the outer one stops the cluster.
    if ray.is_initialized():
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it prints advice to Ray's own developers as errors
    address = os.environ.get("RAY_ADDRESS") or "local"
    runtime_env = {"env_vars": {name: os.environ[name] for name in RAY_ENVIRONMENT}}
    try:
        if address == "local":
            start_cluster(runtime_env)
        else:
            join_cluster(address, runtime_env)
    except SystemExit:
        # Ray installs handlers of its own, which exit with 1 or 15.
        _raise_exit()
    signal.signal(signal.SIGTERM, _raise_exit)
    # stdout is for the result alone, whatever Ray prints.
    with contextlib.redirect_stdout(sys.stderr), watched_cluster():
        yield


def print_result(path: str | Path) -> None:
    """Prints the result's path as the last line of stdout."""
    print(path, flush=True)


def _fail(error: BaseException, code: int) -> NoReturn:
    logger.debug("failed here", exc_info=error)
    print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
    sys.exit(code)


def _interrupt(*_: object) -> NoReturn:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def _terminate(*_: object) -> NoReturn:
    print("terminated", file=sys.stderr)
    sys.exit(_TERMINATED)


def _raise_exit(*_: object) -> NoReturn:
    # An exception and no exit: the verb may have something to clean up.
    raise SystemExit(_TERMINATED)


def _is_program() -> bool:
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name.startswith("jobs.")


if _is_program():
    # Ray reads the environment when it is imported: a verb imports it after this module, and before it runs.
    configure_environment(RAY_ENVIRONMENT, import_environment())
    # Importing torch and Ray takes seconds; until `run_verb` there is nothing to clean up.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
