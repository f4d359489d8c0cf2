"""Errors that a command ends with code 2 for, and the death of Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class ConfigError(ValueError):
    """A document, an override or an argument that the user has to change; the message names the dotted key."""


class ClusterTooSmallError(ValueError):
    """Workers that the cluster can never place; Ray would wait for ever."""


class ClusterDiedError(RuntimeError):
    """A process of Ray without which no call to the cluster ends."""


class NoShardsError(FileNotFoundError):
    """A path or glob that names no shard."""


@contextlib.contextmanager
def config_errors(key: str) -> Iterator[None]:
    """Raises what is wrong with a file that the config names under `key`, in the `with` block, as a ConfigError."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(f"{key}: {error}") from None


class CarriedError(Exception):
    """An error of ours on its way through Ray Data, which adds advice about retries to the text of any error."""

    # As it was raised; no argument of the exception, as Ray adds its advice to arguments.
    error: BaseException

    @classmethod
    @contextlib.contextmanager
    def carrying(cls) -> Iterator[None]:
        """Wraps what a user can mend, raised in its block; `yt8m_ray.cluster.root_cause` unwraps it."""
        try:
            yield
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            carried = cls()
            carried.error = error
            raise carried from None
