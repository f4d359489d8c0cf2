"""What all verbs share: exit codes, signals, the environment of Ray, the result.

stdout carries only the result; everything else goes to stderr. Exit codes: 0; 1 data or run failed; 2 config or
arguments; 130 and 143 interrupted and terminated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from yt8m_ray.errors import ClusterDiedError, ClusterTooSmallError, ConfigError, NoShardsError
from yt8m_ray.local_cluster import configure_environment, import_environment
from yt8m_ray.registry import IMPORTS_VARIABLE

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


def run_guarded(work: Callable[[], None], *, is_verbose: bool = False) -> NoReturn:
    """Runs `work` and exits; what a user can mend is one message, with a traceback if the command is verbose."""
    # Ray reads the environment when it is imported, which a verb does late.
    configure_environment(RAY_ENVIRONMENT, import_environment())
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # What Ray says of its own calls of itself.
    warnings.filterwarnings("ignore", module=r"ray\.")
    # Migrations and checks: nothing to act on.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Frameworks clean up on KeyboardInterrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, raise_exit)
    try:
        work()
    except (ConfigError, NoShardsError, ClusterTooSmallError) as error:
        _fail(error, 2, is_verbose)
    except ClusterDiedError:
        sys.stdout.flush()
        # Ray's own way out would wait for what has died.
        os._exit(1)
    except BrokenPipeError:
        # The reader of stdout has ended, as `head` does; Python would complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError, OverflowError, MemoryError, RuntimeError) as error:
        _fail(error, 1, is_verbose)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except SystemExit as error:
        if error.code == _TERMINATED:
            _end("terminated", _TERMINATED)
        raise
    sys.exit(0)


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """Connects to $RAY_ADDRESS (`ray job submit` sets it), or starts a cluster of this machine and stops it again.

    ConfigError if $RAY_ADDRESS is no address, ConnectionError or RuntimeError if no cluster answers or starts,
    ClusterDiedError if a process dies that Ray needs.
    """
    # Late: Ray reads the environment when it is imported, and many verbs do without it.
    import ray

    from yt8m_ray.cli.ray_cluster import join_cluster, start_cluster, watched_cluster

    configure_environment(RAY_ENVIRONMENT)
    # A verb inside another, as in the demo: the outer one stops the cluster.
    if ray.is_initialized():
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it prints advice to Ray's own developers as errors
    address = os.environ.get("RAY_ADDRESS") or "local"
    # The last two find components of a user's own, where there are some.
    own = ("PYTHONPATH", IMPORTS_VARIABLE) if IMPORTS_VARIABLE in os.environ else ()
    names = [*RAY_ENVIRONMENT, *own]
    runtime_env = {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}
    try:
        if address == "local":
            start_cluster(runtime_env)
        else:
            join_cluster(address, runtime_env)
    except SystemExit:
        # Ray installs handlers of its own, which exit with 1 or 15.
        raise_exit()
    signal.signal(signal.SIGTERM, raise_exit)
    # stdout is for the result alone, whatever Ray prints.
    with contextlib.redirect_stdout(sys.stderr), watched_cluster():
        yield


def print_result(path: str | Path) -> None:
    """Prints the result's path as the last line of stdout."""
    print(path, flush=True)


def raise_exit(*_: object) -> NoReturn:
    """Ends the process as SIGTERM should: by an exception, for a verb may have something to clean up."""
    raise SystemExit(_TERMINATED)


def _fail(error: BaseException, code: int, is_verbose: bool) -> NoReturn:
    if is_verbose:
        traceback.print_exception(error)
    _end(f"error: {str(error) or type(error).__name__}", code)


def _end(line: str, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)
